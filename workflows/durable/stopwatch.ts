import { condition } from '@temporalio/workflow';
import { raceDeadline } from './cancellation-scopes.ts';

/** The running time of a lease: it is stopped while its VMs are suspended. */
export class Stopwatch {
  #since: number | null = null;
  #ms = 0;

  get running(): boolean {
    return this.#since !== null;
  }

  get ms(): number {
    return this.#ms + (this.#since === null ? 0 : Date.now() - this.#since);
  }

  start(): void {
    this.#since ??= Date.now();
  }

  stop(): void {
    this.#ms = this.ms;
    this.#since = null;
  }
}

/** Runs an act for at most `ms` of the stopwatch's time, counted from now: see raceDeadline. */
export function withRunningTimeout<T>(watch: Stopwatch, ms: number, expired: () => Error, act: () => Promise<T>): Promise<T> {
  const untilMs = watch.ms + ms;
  const passed = async (): Promise<void> => {
    while (watch.ms < untilMs) {
      await condition(() => watch.running);
      await condition(() => !watch.running, Math.max(1, untilMs - watch.ms));
    }
  };
  return raceDeadline(passed, expired, act);
}
