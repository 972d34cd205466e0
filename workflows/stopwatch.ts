import { CancellationScope, condition } from '@temporalio/workflow';
import { onlyCancellation } from './scopes.ts';

/** The running time of a lease: it stands still while its VMs are suspended. */
export class Stopwatch {
  #since: number | null = null;
  #ms = 0;

  get running(): boolean {
    return this.#since !== null;
  }

  get ms(): number {
    return this.#ms + (this.#since === null ? 0 : Date.now() - this.#since);
  }

  go(): void {
    this.#since ??= Date.now();
  }

  stop(): void {
    this.#ms = this.ms;
    this.#since = null;
  }
}

/**
 * Runs an act for at most `ms` of the stopwatch's time, counted from now. As `within`: when they have passed, it is
 * cancelled, waited for, and `expired()` is thrown; an act that ends well all the same has ended well.
 */
export async function withinRunning<T>(watch: Stopwatch, ms: number, expired: () => Error, act: () => Promise<T>): Promise<T> {
  const outer = CancellationScope.current();
  const scope = new CancellationScope();
  const clock = new CancellationScope();
  const untilMs = watch.ms + ms;
  let late = false;
  const alarm = clock
    .run(async () => {
      while (watch.ms < untilMs) {
        await condition(() => watch.running);
        await condition(() => !watch.running, Math.max(1, untilMs - watch.ms));
      }
      late = true;
      scope.cancel();
    })
    .catch(onlyCancellation);
  try {
    return await scope.run(act);
  } catch (error) {
    throw late && !outer.consideredCancelled ? expired() : error;
  } finally {
    clock.cancel();
    await alarm;
  }
}
