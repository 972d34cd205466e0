/**
 * Runs acts side by side, all or none: the first failure aborts the signal of the others, and is thrown when every one
 * has stopped, so that whoever repeats or undoes them finds nothing at work.
 */
export async function allOrNone<T>(signal: AbortSignal, acts: ((signal: AbortSignal) => Promise<T>)[]): Promise<T[]> {
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  const ends = await Promise.allSettled(
    acts.map(async (act) => {
      try {
        return await act(either);
      } catch (error) {
        failed.abort(error);
        throw error;
      }
    }),
  );
  if (failed.signal.aborted) throw failed.signal.reason;
  signal.throwIfAborted();
  return ends.map((end) => (end as PromiseFulfilledResult<Awaited<T>>).value);
}
