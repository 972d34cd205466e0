import { condition, defineSignal, setHandler } from '@temporalio/workflow';
import { signalName } from '../../model/temporal.ts';
import { timing } from './timeouts.ts';

const wakeUpSignal = defineSignal(signalName.wakeUp);

/** For what must succeed in the end: it is tried for ever, in growing pauses, or at once when an operator says so. */
export class RetryForever {
  #wakeUps = 0;
  readonly #backoff: { initialMs: number; maxMs: number };

  constructor(pace: number) {
    this.#backoff = timing(pace).refusedBackoff;
    setHandler(wakeUpSignal, () => {
      this.#wakeUps += 1;
    });
  }

  /** @param onFailure hears of every failure; it may rethrow one that no repetition can mend. */
  async run<T>(act: () => Promise<T>, onFailure: (error: unknown) => void | Promise<void>): Promise<T> {
    for (let backoffMs = this.#backoff.initialMs; ; backoffMs = Math.min(backoffMs * 2, this.#backoff.maxMs)) {
      try {
        return await act();
      } catch (error) {
        await onFailure(error);
      }
      const seen = this.#wakeUps;
      await condition(() => this.#wakeUps > seen, backoffMs);
    }
  }
}
