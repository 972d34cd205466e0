import type { DiskSource, DomainDisk } from '../../../contracts/domain.ts';
import { pollUntil } from '../../../drivers/host/poll-until.ts';
import type { CopyJob } from '../../../drivers/ports/disk-mover.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainConfig, extraDiskTarget } from '../vm/domain-config.ts';
import { domainName } from '../vm/domain-names.ts';
import { requireRecord } from '../vm-record.ts';

const pollMs = 100;
/** A copy that is ready and can't be pivoted to for a whole minute is not worth its mirrored writes. */
const pivotDeadlineMs = 60_000;

/**
 * Copies the disks of a VM that runs here from its home to this host, and pivots the domain to the copies. Rejoins what an
 * earlier attempt began: active copies, and disks that are local already. All are copied before the first pivot; a failure
 * or cancellation before that leaves nothing here.
 */
export async function migrateDisks(ports: HostPorts, vm: VmSpec, signal: AbortSignal): Promise<{ bytes: number }> {
  const { store } = ports;
  const record = await requireRecord(store, vm.id, 'migrating the disks of');
  const remote = await remoteDisks(ports, vm);
  if (remote.length === 0) return { bytes: 0 };
  if (record.disksLocal) return { bytes: await pivotAll(ports, vm, remote) };
  try {
    await copyAll(ports, vm, remote, signal);
  } catch (error) {
    await abortCopies(ports, vm, remote);
    throw error;
  }
  // The point of no return: once one disk is local, all have to be.
  await store.writeDurably({ ...record, disksLocal: true });
  return { bytes: await pivotAll(ports, vm, remote) };
}

/** The progress of all copies together; null where none is active. */
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
  const sum = (field: 'copiedBytes' | 'totalBytes') => jobs.reduce((bytes, job) => bytes + job[field], 0);
  return { copiedBytes: sum('copiedBytes'), totalBytes: sum('totalBytes') };
}

/** Resolves a disk migration whose outcome is unknown: completes or aborts it. `there`: the disks are at the home, as before. */
export async function resolveDiskMigration(ports: HostPorts, vm: VmSpec): Promise<'here' | 'there'> {
  const record = await requireRecord(ports.store, vm.id, 'resolving the disk migration of');
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

/** The disks that the domain has open over NFS, as they are to be on this host. */
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
  await pollUntil(clock, { pollMs, signal }, async () => {
    const jobs = await Promise.all(remote.map(({ target }) => diskMover.observeCopy(name, target)));
    if (jobs.every((job) => job?.ready === true)) return true;
    // libvirt reports no error for a full disk: the job has ended.
    if (jobs.some((job) => job === null))
      throw new BerthError(
        'disk-full',
        `copying the disks of ${vm.id}: a copy ended before it was complete; check the free space of this host's disk`,
      );
    return null;
  });
}

/** Creates the file that a disk is copied into. */
async function createTarget(
  { diskTool, imageCache }: HostPorts,
  vm: VmSpec,
  { target, format, source }: DomainDisk,
): Promise<void> {
  if (source.kind !== 'file') throw new Error(`BUG: ${vm.id} would be copied to ${source.kind}`);
  if (format === 'raw') return diskTool.createEmpty(source.path, sizeMiBOf(vm, target));
  const image = await imageCache.find(vm.image.id);
  if (image === null) throw new BerthError('image-damaged', `copying the disks of ${vm.id}: its image left this host's cache`);
  await diskTool.createOverlay(source.path, image.disk, vm.rootMiB);
}

const sizeMiBOf = (vm: VmSpec, target: string): number =>
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
        // Either an attempt that got no answer has pivoted it, or the copy is behind again for a moment.
        if ((await diskMover.readSources(name)).get(target)?.kind === 'file') break;
        if (clock.nowMs() > untilMs) throw error;
      }
    }
  }
  return bytes;
}

async function abortCopies({ diskMover, diskTool, hypervisor }: HostPorts, vm: VmSpec, remote: DomainDisk[]): Promise<void> {
  const name = domainName(vm.id);
  for (const { target, source } of remote) {
    if ((await hypervisor.status(name)) !== null) await diskMover.abortCopy(name, target);
    if (source.kind === 'file') await diskTool.remove(source.path);
  }
}
