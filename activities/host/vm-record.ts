import type { VmRecord, VmStore } from '../../drivers/ports/vm-store.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';

export function staleGeneration(vmId: string, generation: number, found: string, act = 'acting on'): BerthError {
  return new BerthError('stale-generation', `${act} ${vmId} with generation ${generation}: ${found}; ask the ledger where it is`);
}

/** Refuses a request whose generation is older than the recorded one: the ledger has placed the VM anew since. */
export function refuseStale(record: VmRecord | null, vmId: VmId, generation: number, act?: string): void {
  if (record !== null && record.generation > generation)
    throw staleGeneration(vmId, generation, `generation ${record.generation} is recorded`, act);
}

/** The record of a VM that must be on this host; `vm-lost` where there is none. */
export async function requireRecord(store: VmStore, vmId: VmId, act: string): Promise<VmRecord> {
  const record = await store.read(vmId);
  if (record === null) throw new BerthError('vm-lost', `${act} ${vmId}: this host has no record of it`);
  return record;
}

/** Reads or creates the record; writes it only when the generation is new. */
export async function openRecord(store: VmStore, vm: VmSpec): Promise<VmRecord> {
  const record = await store.read(vm.id);
  if (record === null) {
    const removed = await store.removedGeneration(vm.id);
    if (removed !== null && removed >= vm.generation)
      throw staleGeneration(vm.id, vm.generation, `it was removed with generation ${removed}`);
    const created = newRecord(vm);
    await store.writeDurably(created);
    return created;
  }
  refuseStale(record, vm.id, vm.generation);
  if (record.generation === vm.generation) {
    if (record.removing) throw staleGeneration(vm.id, vm.generation, 'its removal has begun');
    return record;
  }
  const updated: VmRecord = { ...record, generation: vm.generation, removing: false, departureGeneration: null };
  await store.writeDurably(updated);
  return updated;
}

/** The record of a VM for which this host has done nothing yet. */
export function newRecord(
  vm: Pick<VmSpec, 'id' | 'generation'> & { image: Pick<VmSpec['image'], 'id'>; network: Pick<VmSpec['network'], 'vni'> },
): VmRecord {
  return {
    vmId: vm.id,
    generation: vm.generation,
    image: vm.image.id,
    vni: vm.network.vni,
    staged: null,
    ready: null,
    jobStartedMs: null,
    boot: null,
    identityApplied: false,
    flushed: false,
    removing: false,
    departureGeneration: null,
    cleanedUpAfter: null,
    suspended: null,
    pausedSinceMs: null,
    arrivedPaused: false,
    idleMs: 0,
    disksLocal: false,
    keepsOutputs: false,
  };
}
