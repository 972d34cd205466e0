/**
 * Runs acts side by side, all or none: the first failure aborts the signal of the others, and is thrown when every one
 * has stopped, so that whoever repeats or undoes them finds nothing at work.
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
  return results.map((end) => (end as PromiseFulfilledResult<Awaited<T>>).value);
}
