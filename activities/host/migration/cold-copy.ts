import type { PackColdCopy, RemoveColdLeftover, UnpackColdCopy } from '../../../contracts/host-migration.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import type { VmRecord } from '../../../drivers/ports/vm-store.ts';
import { BerthError } from '../../../model/errors.ts';
import type { VmId } from '../../../model/ids.ts';
import type { ColdCopyPass } from '../../../model/migration.ts';
import type { VmSpec } from '../../../model/vm.ts';
import { domainConfig } from '../vm/domain-config.ts';
import { domainName } from '../vm/domain-names.ts';
import { removeDisks } from '../vm/remove-disks.ts';
/** What this host still has of an earlier version of a VM that is to come. */
export const offerCachedChunks = ({ coldCopy: carrier }: HostPorts, vmId: VmId): Promise<{ chunks: number }> =>
  carrier.offerCachedChunks(vmId);

/** How far a cold copy is, as this host sees it. */
export const observeColdCopy = ({ coldCopy: carrier }: HostPorts, vmId: VmId): Promise<ColdCopyPass | null> =>
  carrier.observePass(vmId);

/** Files of a VM that doesn't run, as one that its target fetches: without what it has, compressed. */
export async function packColdCopy({ coldCopy: carrier, store, hypervisor }: HostPorts, request: PackColdCopy) {
  const { vmId, generation, files, cachedChunks: offer } = request;
  const found = await hypervisor.status(domainName(vmId));
  if (found !== null)
    throw new BerthError('in-use', `packing ${vmId}: its domain is ${found.state} (${found.reason}); suspend it first`);
  const record = await store.read(vmId);
  if (record === null || record.generation > generation)
    throw new BerthError(
      'stale-generation',
      `packing ${vmId} with generation ${generation}: ${record?.generation ?? 'no record'} is recorded`,
    );
  if (files.includes('memory') && record.suspended?.complete !== true)
    throw new BerthError('conflict', `packing ${vmId}: its memory isn't saved here`);
  return { ...(await carrier.pack(vmId, files, offer)), sinceMs: record.suspended?.sinceMs ?? null };
}

/** The VM as files of this host, suspended. Nothing runs here before restoreVm. */
export async function unpackColdCopy(ports: HostPorts, request: UnpackColdCopy, record: VmRecord): Promise<void> {
  const { coldCopy: carrier, hypervisor, store } = ports;
  const { vm, packs, portableRecord: carried, suspendedSinceMs: sinceMs, diskHostAddress: disksAt } = request;
  if (record.suspended?.complete === true) return;
  const found = await hypervisor.status(domainName(vm.id));
  if (found !== null)
    throw new BerthError('conflict', `unpacking ${vm.id}: a domain of this name is ${found.state} (${found.reason}) here`);
  await domainConfig(ports, vm, disksAt);
  for (const pack of packs) await carrier.unpack(vm.id, pack);
  await store.writeDurably({ ...record, ...carried, flushed: false, suspended: { sinceMs, complete: true } });
  await carrier.removeTransferFiles(vm.id);
}

/**
 * What became of a restoration here. `untouched`: the guest has executed nothing since it was suspended, and nothing of
 * it is in the hypervisor any more. `running`: it goes on here. `lost`: it went on here, and has ended.
 */
export async function resolveRestore(
  { hypervisor }: HostPorts,
  vm: VmSpec,
  record: VmRecord,
): Promise<'untouched' | 'running' | 'lost'> {
  const name = domainName(vm.id);
  const found = await hypervisor.status(name);
  // Cleared before the first instruction: restoreVm.
  if (record.suspended !== null || record.ready === null) {
    if (found !== null) await hypervisor.destroy(name);
    return 'untouched';
  }
  if (found === null) return 'lost';
  if (found.state === 'paused') await hypervisor.resumeCpus(name);
  return 'running';
}

/** After the VM went elsewhere as files, or never came: its memory here is of the past, and kept as such where asked. */
export async function removeColdLeftover(ports: HostPorts, request: RemoveColdLeftover, record: VmRecord | null): Promise<void> {
  const { coldCopy: carrier, hypervisor, store } = ports;
  const { vmId, generation, cacheFiles: keep, isHome: home } = request;
  const found = await hypervisor.status(domainName(vmId));
  if (found !== null) throw new BerthError('in-use', `leaving ${vmId}: its domain is ${found.state} (${found.reason}) here`);
  // The record first: from here on nobody restores from what lies here.
  if (record !== null)
    await store.writeDurably({ ...record, generation: Math.max(generation, record.generation), suspended: null });
  if (keep.length > 0) await carrier.keepPreviousVersion(vmId, keep);
  await carrier.removeTransferFiles(vmId);
  await store.removeMemory(vmId);
  if (!home) await removeDisks(ports, vmId, generation, await store.read(vmId));
}
