import { CancellationScope, isCancellation, sleep } from '@temporalio/workflow';

/**
 * Runs acts side by side, all or none: when one fails, the others are cancelled, and the first failure is thrown when
 * every one of them has stopped. So whatever undoes them finds nothing at work.
 */
export async function allOrCancel<T>(acts: (() => Promise<T>)[]): Promise<T[]> {
  const scope = new CancellationScope();
  return scope.run(async () => {
    const failures: unknown[] = [];
    const running = acts.map(async (act) => {
      try {
        return await act();
      } catch (error) {
        failures.push(error);
        scope.cancel();
        throw error;
      }
    });
    const ends = await Promise.allSettled(running);
    if (failures.length > 0) throw failures[0];
    return ends.map((end) => (end as PromiseFulfilledResult<T>).value);
  });
}

/**
 * Runs an act until `wait` ends: then cancels it, waits until it has stopped and throws `expired()`. An act that ends
 * well all the same has ended well. `wait` is cancelled when the act is over.
 */
export async function raceDeadline<T>(wait: () => Promise<unknown>, expired: () => Error, act: () => Promise<T>): Promise<T> {
  const outer = CancellationScope.current();
  const scope = new CancellationScope();
  const clock = new CancellationScope();
  let late = false;
  const alarm = clock
    .run(async () => {
      await wait();
      late = true;
      scope.cancel();
    })
    .catch(rethrowUnlessCancelled);
  try {
    return await scope.run(act);
  } catch (error) {
    throw late && !outer.consideredCancelled ? expired() : error;
  } finally {
    clock.cancel();
    await alarm;
  }
}

/** Runs an act for at most `ms`: see before(). */
export const withTimeout = <T>(ms: number, expired: () => Error, act: () => Promise<T>): Promise<T> =>
  raceDeadline(() => sleep(ms), expired, act);

/** For what is ended by being cancelled. */
export function rethrowUnlessCancelled(error: unknown): void {
  if (!isCancellation(error)) throw error;
}
