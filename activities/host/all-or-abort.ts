/**
 * Runs tasks in parallel, all or none: the first failure aborts the signal of the others. It is thrown once all of them
 * have ended, so that a retry or an undo finds none of them still at work.
 */
export async function allOrAbort<T>(signal: AbortSignal, tasks: ((signal: AbortSignal) => Promise<T>)[]): Promise<T[]> {
  const failed = new AbortController();
  const anySignal = AbortSignal.any([signal, failed.signal]);
  const results = await Promise.allSettled(
    tasks.map(async (act) => {
      try {
        return await act(anySignal);
      } catch (error) {
        failed.abort(error);
        throw error;
      }
    }),
  );
  if (failed.signal.aborted) throw failed.signal.reason;
  signal.throwIfAborted();
  return results.map((result) => (result as PromiseFulfilledResult<Awaited<T>>).value);
}

/** Acts on every item, on at most `workers` at a time, all or none as allOrAbort has it. */
export async function forEachParallel<T>(
  items: readonly T[],
  workers: number,
  signal: AbortSignal,
  act: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const queue = [...items];
  const work = async (anySignal: AbortSignal): Promise<void> => {
    for (let item = queue.shift(); item !== undefined && !anySignal.aborted; item = queue.shift()) await act(item, anySignal);
  };
  await allOrAbort(
    signal,
    Array.from({ length: Math.min(workers, items.length) }, () => work),
  );
}
