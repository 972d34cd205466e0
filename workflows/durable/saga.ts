import { CancellationScope } from '@temporalio/workflow';

export interface UndoFailure {
  step: string;
  error: unknown;
}

/**
 * A stack of undos. An undo is registered before its act, because the outcome of an act that timed out is unknown; so it
 * must also be right when the act never began.
 */
export class Saga {
  readonly #undos: { step: string; undo: () => Promise<unknown> }[] = [];

  async step<T>(name: string, act: () => Promise<T>, undo?: () => Promise<unknown>): Promise<T> {
    if (undo !== undefined) this.register(name, undo);
    return act();
  }

  /** The undo of what another workflow may have done. */
  register(step: string, undo: () => Promise<unknown>): void {
    this.#undos.push({ step, undo });
  }

  /** No step with an undo has begun, or all are undone. */
  get isUndone(): boolean {
    return this.#undos.length === 0;
  }

  /**
   * Runs the undos, last in first out, shielded from cancellation. One that fails stops the unwinding, because what the
   * earlier steps made may still be in use. It remains on the stack, so that a later call continues with it.
   */
  async unwind(): Promise<UndoFailure | null> {
    return CancellationScope.nonCancellable(async () => {
      for (let top = this.#undos.at(-1); top !== undefined; top = this.#undos.at(-1)) {
        try {
          await top.undo();
        } catch (error) {
          return { step: top.step, error };
        }
        this.#undos.pop();
      }
      return null;
    });
  }
}
