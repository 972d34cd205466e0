import type { VmRecord, VmStore } from '../../drivers/ports/vm-store.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';

/**
 * Who may act on a VM on this host: one activity at a time, never one of an older generation, and none that makes
 * something after the removal has begun.
 *
 * Temporal may start an attempt while the one before still runs here, because its heartbeats were late. The newer
 * one stops the older and waits for its end, so that two never write the same disk.
 */
export interface VmLock {
  /** For activities that make things: records the VM, or refuses. `takeOver` is what whoever is at work is stopped with. */
  lockForUpdate<T>(
    vm: VmSpec,
    signal: AbortSignal,
    body: (record: VmRecord, signal: AbortSignal) => Promise<T>,
    takeOver?: BerthError,
  ): Promise<T>;
  /** For activities that remove things: also where nothing was recorded. */
  lockForRemoval<T>(vmId: VmId, generation: number, body: (record: VmRecord | null) => Promise<T>): Promise<T>;
}

interface Holder {
  generation: number;
  abort: AbortController;
  released: Promise<void>;
}

function staleGeneration(vmId: string, generation: number, found: string): BerthError {
  return new BerthError(
    'stale-generation',
    `acting on ${vmId} with generation ${generation}: ${found}; ask the ledger where it is`,
  );
}

export function createVmLock(store: VmStore): VmLock {
  const holders = new Map<string, Holder>();

  /** Waits for its turn; the one before is told to stop. */
  async function exclusively<T>(
    vmId: string,
    generation: number,
    signal: AbortSignal | null,
    body: (signal: AbortSignal) => Promise<T>,
    takeoverError?: BerthError,
  ) {
    for (let holder = holders.get(vmId); holder !== undefined; holder = holders.get(vmId)) {
      if (holder.generation > generation) throw staleGeneration(vmId, generation, `generation ${holder.generation} is at work`);
      holder.abort.abort(takeoverError ?? new BerthError('host-busy', `acting on ${vmId}: another attempt took over`));
      await holder.released;
    }
    const abort = new AbortController();
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    holders.set(vmId, { generation, abort, released: ended });
    try {
      return await body(signal === null ? abort.signal : AbortSignal.any([signal, abort.signal]));
    } finally {
      holders.delete(vmId);
      end();
    }
  }

  return {
    lockForUpdate(vm, signal, body, takeoverError) {
      return exclusively(
        vm.id,
        vm.generation,
        signal,
        async (anySignal) => body(await openRecord(store, vm), anySignal),
        takeoverError,
      );
    },
    lockForRemoval(vmId, generation, body) {
      return exclusively(vmId, generation, null, async () => {
        const record = await store.read(vmId);
        if (record !== null && record.generation > generation)
          throw staleGeneration(vmId, generation, `generation ${record.generation} is recorded`);
        return body(record);
      });
    },
  };
}

/** Reads or makes the record; writes it only when the generation is new. */
async function openRecord(store: VmStore, vm: VmSpec): Promise<VmRecord> {
  const record = await store.read(vm.id);
  if (record === null) {
    const removed = await store.removedGeneration(vm.id);
    if (removed !== null && removed >= vm.generation)
      throw staleGeneration(vm.id, vm.generation, `it was removed with generation ${removed}`);
    const created = newRecord(vm);
    await store.writeDurably(created);
    return created;
  }
  if (record.generation > vm.generation)
    throw staleGeneration(vm.id, vm.generation, `generation ${record.generation} is recorded`);
  if (record.generation === vm.generation) {
    if (record.removing) throw staleGeneration(vm.id, vm.generation, 'its removal has begun');
    return record;
  }
  const updated: VmRecord = { ...record, generation: vm.generation, removing: false, departureGeneration: null };
  await store.writeDurably(updated);
  return updated;
}

/** What a host remembers of a VM for which nothing was done yet. */
export function newRecord(vm: VmSpec): VmRecord {
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
    suspended: null,
    pausedSinceMs: null,
    idleMs: 0,
    disksLocal: false,
  };
}
