import type { Saga } from './saga.ts';

/** A row of a saga's table: what docs/sagas.md shows. */
export interface StepRow {
  /** As the timeline shows it. */
  readonly name: string;
  readonly does: string;
  /** What undoes the step; for a step without an undo, what cleans up or why nothing has to be. */
  readonly undoneBy: string;
}

/** A step as data. `R` is what it works on: a saga's run, or one VM of it. */
export interface Step<R> extends StepRow {
  readonly act: (run: R) => Promise<void>;
  /** Must be right also when the act never began: it is registered first. */
  readonly undo: ((run: R) => Promise<unknown>) | null;
}

/** Runs one step: registers its undo, then acts. */
export function runStep<R>(saga: Saga, { name, act, undo }: Step<R>, run: R): Promise<void> {
  return saga.step(name, () => act(run), undo === null ? undefined : () => undo(run));
}

/** Runs steps one after the other. @param track enters each in the timeline */
export async function runSteps<R, S extends Step<R>>(
  saga: Saga,
  steps: readonly S[],
  run: R,
  track: (step: S, act: () => Promise<void>) => Promise<void>,
): Promise<void> {
  for (const step of steps) await track(step, () => runStep(saga, step, run));
}
