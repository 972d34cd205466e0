import { CancellationScope, isCancellation, sleep } from '@temporalio/workflow';

/**
 * Runs acts concurrently, all or none: when one fails, the others are cancelled. The first failure is thrown when all of
 * them have stopped, so that their undos run against nothing that is still at work.
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
 * Runs an act until `wait` ends: then cancels it, waits until it has stopped and throws `expired()`. An act that succeeds
 * in spite of that has succeeded. `wait` is cancelled when the act ends.
 */
export async function raceDeadline<T>(wait: () => Promise<unknown>, expired: () => Error, act: () => Promise<T>): Promise<T> {
  const outer = CancellationScope.current();
  const acting = new CancellationScope();
  const waiting = new CancellationScope();
  let late = false;
  const deadline = waiting
    .run(async () => {
      await wait();
      late = true;
      acting.cancel();
    })
    .catch(rethrowUnlessCancelled);
  try {
    return await acting.run(act);
  } catch (error) {
    throw late && !outer.consideredCancelled ? expired() : error;
  } finally {
    waiting.cancel();
    await deadline;
  }
}

/** Runs an act for at most `ms`: see raceDeadline. */
export const withTimeout = <T>(ms: number, expired: () => Error, act: () => Promise<T>): Promise<T> =>
  raceDeadline(() => sleep(ms), expired, act);

/** For a promise that its own scope's cancellation ends. */
export function rethrowUnlessCancelled(error: unknown): void {
  if (!isCancellation(error)) throw error;
}
