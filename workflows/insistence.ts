import { condition, defineSignal, setHandler } from '@temporalio/workflow';
import { signalName } from '../model/temporal.ts';
import { waits } from './timeouts.ts';

const lookNowSignal = defineSignal(signalName.lookNow);

/** For what must succeed in the end: it is tried for ever, in growing pauses, or at once when an operator says so. */
export class Insistence {
  #looks = 0;
  readonly #pause: { first: number; longest: number };

  constructor(pace: number) {
    this.#pause = waits(pace).stuckPause;
    setHandler(lookNowSignal, () => {
      this.#looks += 1;
    });
  }

  /** @param refused hears of every failure; it may rethrow one that no repetition can mend. */
  async on<T>(act: () => Promise<T>, refused: (error: unknown) => void | Promise<void>): Promise<T> {
    for (let pause = this.#pause.first; ; pause = Math.min(pause * 2, this.#pause.longest)) {
      try {
        return await act();
      } catch (error) {
        await refused(error);
      }
      const looks = this.#looks;
      await condition(() => this.#looks > looks, pause);
    }
  }
}
