import { condition, defineSignal, setHandler } from '@temporalio/workflow';
import type { LedgerActivities } from '../../contracts/ledger.ts';
import { signalName } from '../../model/temporal.ts';
import { Backoff, type BackoffLimits } from './backoff.ts';
import { codeOf, taskErrorOf } from './failure.ts';
import type { Progress } from './progress.ts';
import type { Saga } from './saga.ts';
import { timing } from './timeouts.ts';

const wakeUpSignal = defineSignal(signalName.wakeUp);

/** Retries without limit, with exponential backoff. The signal `wakeUp` ends the current pause. */
export class RetryForever {
  #wakeUps = 0;
  readonly #limits: BackoffLimits;

  constructor(pace: number) {
    this.#limits = timing(pace).refusedBackoff;
    setHandler(wakeUpSignal, () => {
      this.#wakeUps += 1;
    });
  }

  /** @param onFailure is called after each failure; it rethrows an error that no retry can mend. */
  async run<T>(act: () => Promise<T>, onFailure: (error: unknown) => void | Promise<void>): Promise<T> {
    const backoff = new Backoff(this.#limits);
    for (;;) {
      try {
        return await act();
      } catch (error) {
        await onFailure(error);
      }
      await this.pause(backoff.next());
    }
  }

  /** Returns after so many ms, or at the signal `wakeUp`. */
  async pause(ms: number): Promise<void> {
    const seen = this.#wakeUps;
    await condition(() => this.#wakeUps > seen, ms);
  }
}

/** Loads a row, retried until the ledger answers. Throws `not-found`, which no retry can mend. */
export function loadOrFail<T>(retry: RetryForever, load: () => Promise<T>, onRefusal?: (error: unknown) => void): Promise<T> {
  return retry.run(load, (error) => {
    if (codeOf(error) === 'not-found') throw error;
    onRefusal?.(error);
  });
}

/** What persistForever needs of a saga's run. */
export interface PersistingRun {
  readonly ledger: LedgerActivities;
  readonly progress: Progress;
  readonly retry: RetryForever;
}

/** Retries a write to the ledger until it succeeds: the facts have happened, so a refusal is a defect to be repaired. */
export async function persistForever<T>(
  { ledger, progress, retry }: PersistingRun,
  what: string,
  write: (ledger: LedgerActivities) => Promise<T>,
): Promise<T> {
  const onRefusal = (error: unknown) =>
    progress.setDetail('refused', `**the ledger refuses ${what}**: ${taskErrorOf(error).message}`);
  const result = await retry.run(() => write(ledger), onRefusal);
  progress.setDetail('refused', null);
  return result;
}

/** Unwinds a saga; retries a failed undo until it succeeds, because no other component removes what is left. */
export function unwindForever(
  saga: Saga,
  retry: RetryForever,
  onFailure: (error: unknown) => void | Promise<void>,
): Promise<void> {
  const unwind = async (): Promise<void> => {
    const failure = await saga.unwind();
    if (failure !== null) throw failure.error;
  };
  return retry.run(unwind, onFailure);
}
