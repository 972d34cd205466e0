import type { DiskSource, DomainDisk } from '../../../contracts/domain.ts';
import type { CopyJob } from '../../../drivers/ports/disk-mover.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainConfig, extraDiskTarget } from '../vm/domain-config.ts';
import { domainName } from '../vm/domain-names.ts';

const pollMs = 100;
/** A copy that is ready for a whole minute and can't be gone over to is not worth its writes. */
const pivotDeadlineMs = 60_000;

/**
 * Copies the disks of a VM that runs here from its home to this host, and lets it go on with the copies. Takes up what
 * an earlier attempt began: copies at work, and disks that are here already. All are copied before the first counts; what
 * fails or is cancelled before that leaves nothing here.
 */
export async function migrateDisks(ports: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<{ bytes: number }> {
  const { store } = ports;
  const record = await requireRecord(store, vm);
  const remote = await remoteDisks(ports, vm);
  if (remote.length === 0) return { bytes: 0 };
  if (record.disksLocal) return { bytes: await pivotAll(ports, vm, remote) };
  try {
    await copyAll(ports, vm, remote, signal);
  } catch (error) {
    await abortCopies(ports, vm, remote);
    throw error;
  }
  // From here on there is no way back: with the first disk that counts here, all have to.
  await store.writeDurably({ ...record, disksLocal: true });
  return { bytes: await pivotAll(ports, vm, remote) };
}

/** How far the copies are, all of them together; null where none is at work. */
export async function observeDiskMigration(
  { diskMover }: HostPorts,
  vmId: VmId,
): Promise<Pick<CopyJob, 'copiedBytes' | 'totalBytes'> | null> {
  const name = domainName(vmId);
  const jobs: CopyJob[] = [];
  for (const target of (await diskMover.readSources(name)).keys()) {
    const job = await diskMover.observeCopy(name, target);
    if (job !== null) jobs.push(job);
  }
  if (jobs.length === 0) return null;
  const sum = (what: 'copiedBytes' | 'totalBytes') => jobs.reduce((bytes, job) => bytes + job[what], 0);
  return { copiedBytes: sum('copiedBytes'), totalBytes: sum('totalBytes') };
}

/** What became of it, and an end to what is neither here nor there. `there`: at its home, as before. */
export async function resolveDiskMigration(ports: HostPorts, vm: VmSpec): Promise<'here' | 'there'> {
  const record = await requireRecord(ports.store, vm);
  if ((await ports.hypervisor.status(domainName(vm.id))) === null) return record.disksLocal ? 'here' : 'there';
  const remote = await remoteDisks(ports, vm);
  if (remote.length === 0) return 'here';
  if (!record.disksLocal) {
    await abortCopies(ports, vm, remote);
    return 'there';
  }
  await pivotAll(ports, vm, remote);
  return 'here';
}

async function requireRecord(store: HostPorts['store'], vm: VmSpec): Promise<VmRecord> {
  const record = await store.read(vm.id);
  if (record === null) throw new BerthError('vm-lost', `bringing the disks of ${vm.id}: this host has no record of it`);
  return record;
}

/** The disks that the domain has open over the network, as they are to be here. */
async function remoteDisks(ports: HostPorts, vm: VmSpec): Promise<DomainDisk[]> {
  const sources = await ports.diskMover.readSources(domainName(vm.id));
  const { disks } = await domainConfig(ports, vm, null);
  const isRemote = (source: DiskSource | undefined): boolean => source?.kind === 'nfs';
  return disks.filter(({ target }) => isRemote(sources.get(target)));
}

async function copyAll(ports: HostPorts, vm: VmSpec, remote: DomainDisk[], signal: AbortSignal): Promise<void> {
  const { diskMover, clock } = ports;
  const name = domainName(vm.id);
  for (const disk of remote) {
    if ((await diskMover.observeCopy(name, disk.target)) !== null) continue;
    await createTarget(ports, vm, disk);
    await diskMover.startCopy(name, disk);
  }
  for (;;) {
    signal.throwIfAborted();
    const jobs = await Promise.all(remote.map(({ target }) => diskMover.observeCopy(name, target)));
    if (jobs.every((job) => job?.ready === true)) return;
    // It says nothing when its place is full: it is no more.
    if (jobs.some((job) => job === null))
      throw new BerthError(
        'disk-full',
        `copying the disks of ${vm.id}: a copy ended before it was complete; look at the room on this host's disk`,
      );
    await clock.sleep(pollMs, signal);
  }
}

/** The file that a disk is copied into. */
async function createTarget(
  { diskTool: disks, imageCache: images }: HostPorts,
  vm: VmSpec,
  { target, format, source }: DomainDisk,
): Promise<void> {
  if (source.kind !== 'file') throw new Error(`BUG: ${vm.id} would be copied to ${source.kind}`);
  if (format === 'raw') return disks.createEmpty(source.path, sizeOf(vm, target));
  const image = await images.find(vm.image.id);
  if (image === null) throw new BerthError('image-damaged', `copying the disks of ${vm.id}: its image left this host's cache`);
  await disks.createOverlay(source.path, image.disk, vm.rootMiB);
}

const sizeOf = (vm: VmSpec, target: string): number =>
  target === 'vdb' ? vm.diskMiB : vm.extraDisksMiB[vm.extraDisksMiB.findIndex((_, index) => extraDiskTarget(index) === target)]!;

/** @returns the bytes that were copied. */
async function pivotAll(ports: HostPorts, vm: VmSpec, remote: DomainDisk[]): Promise<number> {
  const { diskMover, clock } = ports;
  const name = domainName(vm.id);
  let bytes = 0;
  for (const { target } of remote) {
    bytes += (await diskMover.observeCopy(name, target))?.totalBytes ?? 0;
    for (const untilMs = clock.nowMs() + pivotDeadlineMs; ; await clock.sleep(pollMs)) {
      try {
        await diskMover.pivot(name, target);
        break;
      } catch (error) {
        // Done by an attempt that heard no answer, or not ready again for a moment.
        if ((await diskMover.readSources(name)).get(target)?.kind === 'file') break;
        if (clock.nowMs() > untilMs) throw error;
      }
    }
  }
  return bytes;
}

async function abortCopies(
  { diskMover, diskTool: disks, hypervisor }: HostPorts,
  vm: VmSpec,
  remote: DomainDisk[],
): Promise<void> {
  const name = domainName(vm.id);
  for (const { target, source } of remote) {
    if ((await hypervisor.status(name)) !== null) await diskMover.abortCopy(name, target);
    if (source.kind === 'file') await disks.remove(source.path);
  }
}
