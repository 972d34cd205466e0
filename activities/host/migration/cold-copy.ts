import type { PackColdCopy, RemoveColdLeftover, UnpackColdCopy } from '../../../contracts/host-migration.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import type { ColdCopyPass } from '../../../model/migration.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainConfig } from '../vm/domain-config.ts';
import { domainName } from '../vm/domain-names.ts';
import { requireNoDomain } from '../vm/domain-state.ts';
import { removeDisks } from '../vm/remove-disks.ts';
import { refuseStale, staleGeneration } from '../vm-record.ts';

/** What this host still has of an earlier version of a VM that is to arrive. */
export const offerCachedChunks = ({ coldCopy }: HostPorts, vmId: VmId): Promise<{ chunks: number }> =>
  coldCopy.offerCachedChunks(vmId);

/** How far a cold copy is on this host. */
export const observeColdCopy = ({ coldCopy }: HostPorts, vmId: VmId): Promise<ColdCopyPass | null> => coldCopy.observePass(vmId);

/** Packs files of a VM that doesn't run into one file for its target: without the chunks that the target has, compressed. */
export async function packColdCopy(ports: HostPorts, request: PackColdCopy) {
  const { coldCopy, store, consoleHistory } = ports;
  const { vmId, generation, files, cachedChunks, targetGeneration } = request;
  await requireNoDomain(ports, vmId, 'in-use', 'packing');
  const record = await store.read(vmId);
  if (record === null) throw staleGeneration(vmId, generation, 'no record is here', 'packing');
  refuseStale(record, vmId, generation, 'packing');
  if (files.includes('memory') && record.suspended?.complete !== true)
    throw new BerthError('conflict', `packing ${vmId}: its memory isn't saved here`);
  if (targetGeneration !== undefined) await consoleHistory.leave(vmId, targetGeneration);
  return { ...(await coldCopy.pack(vmId, files, cachedChunks)), sinceMs: record.suspended?.sinceMs ?? null };
}

/** Makes the VM a suspended one of this host, or one without a domain, from its packs. Nothing runs here before its next step. */
export async function unpackColdCopy(ports: HostPorts, request: UnpackColdCopy, record: VmRecord): Promise<void> {
  const { coldCopy, store, consoleHistory } = ports;
  const { vm, packs, portableRecord, suspendedSinceMs: sinceMs, diskHostAddress, earlierConsole = null } = request;
  if (record.suspended?.complete === true) return;
  await requireNoDomain(ports, vm.id, 'conflict', 'unpacking');
  await domainConfig(ports, vm, diskHostAddress);
  await consoleHistory.expect(vm.id, earlierConsole);
  for (const pack of packs) await coldCopy.unpack(vm.id, pack);
  const suspended = sinceMs === null ? null : { sinceMs, complete: true };
  await store.writeDurably({ ...record, ...portableRecord, flushed: false, suspended });
  await coldCopy.removeTransferFiles(vm.id);
}

/**
 * Resolves a restoration here whose outcome is unknown. `untouched`: the guest has executed nothing since it was
 * suspended, and the hypervisor has no domain of it any more. `running`: it runs here. `lost`: it ran here, and has ended.
 */
export async function resolveRestore(
  { hypervisor }: HostPorts,
  vm: VmSpec,
  record: VmRecord,
): Promise<'untouched' | 'running' | 'lost'> {
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  // restoreVm clears `suspended` before the guest's first instruction.
  if (record.suspended !== null || record.ready === null) {
    if (found !== null) await hypervisor.destroy(name);
    return 'untouched';
  }
  if (found === null) return 'lost';
  if (found.state === 'paused') await hypervisor.resumeCpus(name);
  return 'running';
}

/**
 * After the VM went to another host as files, or never came: removes its memory here, which is outdated, or keeps it as
 * a previous version where that is requested.
 */
export async function removeColdLeftover(ports: HostPorts, request: RemoveColdLeftover, record: VmRecord | null): Promise<void> {
  const { coldCopy, store, consoleHistory } = ports;
  const { vmId, generation, cacheFiles, isHome, targetGeneration = null } = request;
  await requireNoDomain(ports, vmId, 'in-use', 'removing what is left of');
  if (record !== null) await consoleHistory.leave(vmId, targetGeneration);
  // The record first: from here on no attempt restores from the files on this host.
  if (record !== null)
    await store.writeDurably({ ...record, generation: Math.max(generation, record.generation), suspended: null });
  if (cacheFiles.length > 0) await coldCopy.keepPreviousVersion(vmId, cacheFiles);
  await coldCopy.removeTransferFiles(vmId);
  await store.removeMemory(vmId);
  if (!isHome) await removeDisks(ports, vmId, generation, await store.read(vmId));
}
