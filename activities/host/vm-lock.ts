import type { VmRecord, VmStore } from '../../drivers/ports/vm-store.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import { openRecord, refuseStale, staleGeneration } from './vm-record.ts';

/**
 * Admits one activity at a time to a VM on this host, never one of an older generation, and none that creates something
 * after the VM's removal has begun.
 *
 * Temporal may start an attempt while the one before still runs here, because its heartbeats were late. The newer attempt
 * aborts the older and waits until it has ended, so that two never write the same disk.
 */
interface VmLock {
  /** For activities that create things: opens the record, or refuses. `takeoverError` aborts the activity at work. */
  lockForUpdate<T>(
    vm: VmSpec,
    signal: AbortSignal,
    body: (record: VmRecord, signal: AbortSignal) => Promise<T>,
    takeoverError?: BerthError,
  ): Promise<T>;
  /** For activities that remove things: also where nothing was recorded. */
  lockForRemoval<T>(vmId: VmId, generation: number, body: (record: VmRecord | null) => Promise<T>): Promise<T>;
}

interface Holder {
  generation: number;
  abort: AbortController;
  released: Promise<void>;
}

export function createVmLock(store: VmStore): VmLock {
  const holders = new Map<string, Holder>();

  /** Aborts the holder of the lock and waits until it has released it. */
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
    const { promise: released, resolve: release } = Promise.withResolvers<void>();
    holders.set(vmId, { generation, abort, released });
    try {
      return await body(signal === null ? abort.signal : AbortSignal.any([signal, abort.signal]));
    } finally {
      holders.delete(vmId);
      release();
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
        refuseStale(record, vmId, generation);
        return body(record);
      });
    },
  };
}
