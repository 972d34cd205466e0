import type { CopyJob, DiskSource, DomainDisk, HostPorts, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import { domainConfig, extraDiskTarget } from './domain-config.ts';
import { domainName } from './names.ts';

const lookEveryMs = 100;
/** A copy that is ready for a whole minute and can't be gone over to is not worth its writes. */
const pivotDeadlineMs = 60_000;

/**
 * Copies the disks of a VM that runs here from its home to this host, and lets it go on with the copies. Takes up what
 * an earlier attempt began: copies at work, and disks that are here already. All are copied before the first counts; what
 * fails or is cancelled before that leaves nothing here.
 */
export async function bringDisks(ports: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<{ bytes: number }> {
  const { store } = ports;
  const record = await recordHere(store, vm);
  const away = await disksAway(ports, vm);
  if (away.length === 0) return { bytes: 0 };
  if (record.disksHere) return { bytes: await pivotAll(ports, vm, away) };
  try {
    await copyAll(ports, vm, away, signal);
  } catch (error) {
    await dropCopies(ports, vm, away);
    throw error;
  }
  // From here on there is no way back: with the first disk that counts here, all have to.
  await store.write({ ...record, disksHere: true });
  return { bytes: await pivotAll(ports, vm, away) };
}

/** How far the copies are, all of them together; null where none is at work. */
export async function observeDisks(
  { diskMover }: HostPorts,
  vmId: VmId,
): Promise<Pick<CopyJob, 'copiedBytes' | 'totalBytes'> | null> {
  const name = domainName(vmId);
  const jobs: CopyJob[] = [];
  for (const target of (await diskMover.sources(name)).keys()) {
    const job = await diskMover.job(name, target);
    if (job !== null) jobs.push(job);
  }
  if (jobs.length === 0) return null;
  const sum = (what: 'copiedBytes' | 'totalBytes') => jobs.reduce((bytes, job) => bytes + job[what], 0);
  return { copiedBytes: sum('copiedBytes'), totalBytes: sum('totalBytes') };
}

/** What became of it, and an end to what is neither here nor there. `there`: at its home, as before. */
export async function settleDisks(ports: HostPorts, vm: VmSpec): Promise<'here' | 'there'> {
  const record = await recordHere(ports.store, vm);
  if ((await ports.hypervisor.status(domainName(vm.id))) === null) return record.disksHere ? 'here' : 'there';
  const away = await disksAway(ports, vm);
  if (away.length === 0) return 'here';
  if (!record.disksHere) {
    await dropCopies(ports, vm, away);
    return 'there';
  }
  await pivotAll(ports, vm, away);
  return 'here';
}

async function recordHere(store: HostPorts['store'], vm: VmSpec): Promise<VmRecord> {
  const record = await store.read(vm.id);
  if (record === null) throw new BerthError('vm-lost', `bringing the disks of ${vm.id}: this host has no record of it`);
  return record;
}

/** The disks that the domain has open over the network, as they are to be here. */
async function disksAway(ports: HostPorts, vm: VmSpec): Promise<DomainDisk[]> {
  const sources = await ports.diskMover.sources(domainName(vm.id));
  const { disks } = await domainConfig(ports, vm, null);
  const away = (source: DiskSource | undefined): boolean => source?.kind === 'nfs';
  return disks.filter(({ target }) => away(sources.get(target)));
}

async function copyAll(ports: HostPorts, vm: VmSpec, away: DomainDisk[], signal: AbortSignal): Promise<void> {
  const { diskMover, clock } = ports;
  const name = domainName(vm.id);
  for (const disk of away) {
    if ((await diskMover.job(name, disk.target)) !== null) continue;
    await makeRoom(ports, vm, disk);
    await diskMover.begin(name, disk);
  }
  for (;;) {
    signal.throwIfAborted();
    const jobs = await Promise.all(away.map(({ target }) => diskMover.job(name, target)));
    if (jobs.every((job) => job?.ready === true)) return;
    // It says nothing when its place is full: it is no more.
    if (jobs.some((job) => job === null))
      throw new BerthError(
        'disk-full',
        `copying the disks of ${vm.id}: a copy ended before it was complete; look at the room on this host's disk`,
      );
    await clock.sleep(lookEveryMs, signal);
  }
}

/** The file that a disk is copied into. */
async function makeRoom({ disks, images }: HostPorts, vm: VmSpec, { target, format, source }: DomainDisk): Promise<void> {
  if (source.kind !== 'file') throw new Error(`BUG: ${vm.id} would be copied to ${source.kind}`);
  if (format === 'raw') return disks.createEmpty(source.path, sizeOf(vm, target));
  const image = await images.find(vm.image.id);
  if (image === null) throw new BerthError('image-damaged', `copying the disks of ${vm.id}: its image left this host's cache`);
  await disks.createOverlay(source.path, image.disk, vm.rootMiB);
}

const sizeOf = (vm: VmSpec, target: string): number =>
  target === 'vdb' ? vm.diskMiB : vm.extraDisksMiB[vm.extraDisksMiB.findIndex((_, index) => extraDiskTarget(index) === target)]!;

/** @returns the bytes that were copied. */
async function pivotAll(ports: HostPorts, vm: VmSpec, away: DomainDisk[]): Promise<number> {
  const { diskMover, clock } = ports;
  const name = domainName(vm.id);
  let bytes = 0;
  for (const { target } of away) {
    bytes += (await diskMover.job(name, target))?.totalBytes ?? 0;
    for (const untilMs = clock.nowMs() + pivotDeadlineMs; ; await clock.sleep(lookEveryMs)) {
      try {
        await diskMover.pivot(name, target);
        break;
      } catch (error) {
        // Done by an attempt that heard no answer, or not ready again for a moment.
        if ((await diskMover.sources(name)).get(target)?.kind === 'file') break;
        if (clock.nowMs() > untilMs) throw error;
      }
    }
  }
  return bytes;
}

async function dropCopies({ diskMover, disks, hypervisor }: HostPorts, vm: VmSpec, away: DomainDisk[]): Promise<void> {
  const name = domainName(vm.id);
  for (const { target, source } of away) {
    if ((await hypervisor.status(name)) !== null) await diskMover.end(name, target);
    if (source.kind === 'file') await disks.remove(source.path);
  }
}
