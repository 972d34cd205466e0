import { condition, defineSignal, setHandler } from '@temporalio/workflow';

/** A flag that a signal sets, for a loop that waits until there is something to do. */
export class WakeUp {
  #woken = false;

  constructor(signal: string) {
    setHandler(defineSignal(signal), this.wake);
  }

  readonly wake = (): void => {
    this.#woken = true;
  };

  /** Before the state is read: a signal that arrives during the read must end the next wait. */
  reset(): void {
    this.#woken = false;
  }

  get isWoken(): boolean {
    return this.#woken;
  }

  /** Returns at the next signal, or after the interval. */
  async wait(ms: number): Promise<void> {
    await condition(() => this.#woken, ms);
  }
}
