import type { CarriedFile, HostPorts, VmRecord } from '../../drivers/ports.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { CopyPass } from '../../model/migration.ts';
import type { VmSpec } from '../../model/vm.ts';
import { domainConfig } from './domain-config.ts';
import type { Carried } from './migrate.ts';
import { domainName } from './names.ts';
import { removeDisks } from './remove-disks.ts';

export interface PackVm {
  vmId: VmId;
  generation: number;
  files: CarriedFile[];
  /** What the target has of an earlier version, and where to read which. */
  offer: { address: string; chunks: number } | null;
}

export interface UnpackVm {
  /** As it will be here. */
  vm: VmSpec;
  /** Address of the host that has its disks, unless they are carried along; null: this one. */
  disksAt: string | null;
  packs: { address: string; bytes: number }[];
  carried: Carried;
  /** When it was suspended. */
  sinceMs: number;
}

export interface LeaveCold {
  vmId: VmId;
  generation: number;
  /** What becomes an old version here, for the case that the VM comes back. */
  keep: CarriedFile[];
  /** Its disks stay here: this is its home. */
  home: boolean;
}

/** What this host still has of an earlier version of a VM that is to come. */
export const offerKept = ({ carrier }: HostPorts, vmId: VmId): Promise<{ chunks: number }> => carrier.offer(vmId);

/** How far a cold copy is, as this host sees it. */
export const observeCopy = ({ carrier }: HostPorts, vmId: VmId): Promise<CopyPass | null> => carrier.pass(vmId);

/** Files of a VM that doesn't run, as one that its target fetches: without what it has, compressed. */
export async function packVm({ carrier, store, hypervisor }: HostPorts, order: PackVm) {
  const { vmId, generation, files, offer } = order;
  const found = await hypervisor.status(domainName(vmId));
  if (found !== null)
    throw new BerthError('in-use', `packing ${vmId}: its domain is ${found.state} (${found.reason}); suspend it first`);
  const record = await store.read(vmId);
  if (record === null || record.generation > generation)
    throw new BerthError(
      'stale-generation',
      `packing ${vmId} with generation ${generation}: ${record?.generation ?? 'no record'} is recorded`,
    );
  if (files.includes('memory') && record.suspended?.saved !== true)
    throw new BerthError('conflict', `packing ${vmId}: its memory isn't saved here`);
  return { ...(await carrier.pack(vmId, files, offer)), sinceMs: record.suspended?.sinceMs ?? null };
}

/** The VM as files of this host, suspended. Nothing runs here before restoreVm. */
export async function unpackVm(ports: HostPorts, order: UnpackVm, record: VmRecord): Promise<void> {
  const { carrier, hypervisor, store } = ports;
  const { vm, packs, carried, sinceMs, disksAt } = order;
  if (record.suspended?.saved === true) return;
  const found = await hypervisor.status(domainName(vm.id));
  if (found !== null)
    throw new BerthError('conflict', `unpacking ${vm.id}: a domain of this name is ${found.state} (${found.reason}) here`);
  await domainConfig(ports, vm, disksAt);
  for (const pack of packs) await carrier.unpack(vm.id, pack);
  await store.write({ ...record, ...carried, settled: false, suspended: { sinceMs, saved: true } });
  await carrier.clear(vm.id);
}

/**
 * What became of a restoration here. `untouched`: the guest has executed nothing since it was suspended, and nothing of
 * it is in the hypervisor any more. `running`: it goes on here. `lost`: it went on here, and has ended.
 */
export async function settleRestored(
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
export async function leaveCold(ports: HostPorts, order: LeaveCold, record: VmRecord | null): Promise<void> {
  const { carrier, hypervisor, store } = ports;
  const { vmId, generation, keep, home } = order;
  const found = await hypervisor.status(domainName(vmId));
  if (found !== null) throw new BerthError('in-use', `leaving ${vmId}: its domain is ${found.state} (${found.reason}) here`);
  // The record first: from here on nobody restores from what lies here.
  if (record !== null) await store.write({ ...record, generation: Math.max(generation, record.generation), suspended: null });
  if (keep.length > 0) await carrier.keep(vmId, keep);
  await carrier.clear(vmId);
  await store.removeMemory(vmId);
  if (!home) await removeDisks(ports, vmId, generation, await store.read(vmId));
}
