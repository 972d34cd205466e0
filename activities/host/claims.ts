import type { VmRecord, VmStore } from '../../drivers/ports.ts';
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
export interface Claims {
  /** For activities that make things: records the VM, or refuses. `takeOver` is what whoever is at work is stopped with. */
  making<T>(
    vm: VmSpec,
    signal: AbortSignal,
    body: (record: VmRecord, signal: AbortSignal) => Promise<T>,
    takeOver?: BerthError,
  ): Promise<T>;
  /** For activities that remove things: also where nothing was recorded. */
  removing<T>(vmId: VmId, generation: number, body: (record: VmRecord | null) => Promise<T>): Promise<T>;
}

interface Holder {
  generation: number;
  abort: AbortController;
  ended: Promise<void>;
}

function stale(vmId: string, generation: number, found: string): BerthError {
  return new BerthError(
    'stale-generation',
    `acting on ${vmId} with generation ${generation}: ${found}; ask the ledger where it is`,
  );
}

export function createClaims(store: VmStore): Claims {
  const holders = new Map<string, Holder>();

  /** Waits for its turn; the one before is told to stop. */
  async function alone<T>(
    vmId: string,
    generation: number,
    signal: AbortSignal | null,
    body: (signal: AbortSignal) => Promise<T>,
    takeOver?: BerthError,
  ) {
    for (let holder = holders.get(vmId); holder !== undefined; holder = holders.get(vmId)) {
      if (holder.generation > generation) throw stale(vmId, generation, `generation ${holder.generation} is at work`);
      holder.abort.abort(takeOver ?? new BerthError('host-busy', `acting on ${vmId}: another attempt took over`));
      await holder.ended;
    }
    const abort = new AbortController();
    const { promise: ended, resolve: end } = Promise.withResolvers<void>();
    holders.set(vmId, { generation, abort, ended });
    try {
      return await body(signal === null ? abort.signal : AbortSignal.any([signal, abort.signal]));
    } finally {
      holders.delete(vmId);
      end();
    }
  }

  return {
    making(vm, signal, body, takeOver) {
      return alone(vm.id, vm.generation, signal, async (both) => body(await claim(store, vm), both), takeOver);
    },
    removing(vmId, generation, body) {
      return alone(vmId, generation, null, async () => {
        const record = await store.read(vmId);
        if (record !== null && record.generation > generation)
          throw stale(vmId, generation, `generation ${record.generation} is recorded`);
        return body(record);
      });
    },
  };
}

/** Reads or makes the record; writes it only when the generation is new. */
async function claim(store: VmStore, vm: VmSpec): Promise<VmRecord> {
  const record = await store.read(vm.id);
  if (record === null) {
    const removed = await store.removedGeneration(vm.id);
    if (removed !== null && removed >= vm.generation)
      throw stale(vm.id, vm.generation, `it was removed with generation ${removed}`);
    const fresh = freshRecord(vm);
    await store.write(fresh);
    return fresh;
  }
  if (record.generation > vm.generation) throw stale(vm.id, vm.generation, `generation ${record.generation} is recorded`);
  if (record.generation === vm.generation) {
    if (record.removing) throw stale(vm.id, vm.generation, 'its removal has begun');
    return record;
  }
  const taken: VmRecord = { ...record, generation: vm.generation, removing: false, departing: null };
  await store.write(taken);
  return taken;
}

/** What a host remembers of a VM for which nothing was done yet. */
export function freshRecord(vm: VmSpec): VmRecord {
  return {
    vmId: vm.id,
    generation: vm.generation,
    image: vm.image.id,
    vni: vm.network.vni,
    staged: null,
    ready: null,
    jobStartedMs: null,
    boot: null,
    adopted: false,
    settled: false,
    removing: false,
    departing: null,
    suspended: null,
    pausedSinceMs: null,
    idleMs: 0,
    disksHere: false,
  };
}
