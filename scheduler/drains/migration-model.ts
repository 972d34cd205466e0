import { median } from '../statistics.ts';
import { type MigrationOperation, type MigrationSample, type OperationKind, operationKinds } from './migration-operations.ts';
import { type FittedKind, fitKind, minOperationS, scaleOf, trainingWindow } from './model-forms.ts';
import type { PreCopyEstimate } from './pre-copy.ts';
import { type Prediction, sumPredictions, type Term } from './regression.ts';
import { type Flow, TransferHistory } from './transfer-history.ts';

export interface MigrationModel {
  /** For the tests: the form that cross-validation chose, and its mean error; null without data. */
  chosen: Record<OperationKind, { form: string; error: number | null }>;
  predict(operations: readonly MigrationOperation[]): Prediction;
  preCopy(operation: MigrationOperation): PreCopyEstimate;
  /** MiB/s between two hosts without other transfers. */
  bandwidth(kind: OperationKind, from: string, to: string): number;
  /** Seconds from the end of a VM's move until it is as busy as before: its own median, else that of all VMs; null: unknown. */
  recoveryS(vm: string): number | null;
}

/** How many of the latest recoveries the estimate is the median of. */
const recoveryWindow = 20;

/**
 * Fits a model to measurements. The features of each sample are computed from what was known before it, so that the
 * prediction interval includes the errors of the estimates of bandwidth and size.
 */
export function fitMigrationModel(samples: readonly MigrationSample[]): MigrationModel {
  const history = new TransferHistory();
  const recoveries: { vm: string; seconds: number }[] = [];
  const flows = new Map<OperationKind, { flow: Flow; seconds: number }[]>(operationKinds.map((kind) => [kind, []]));
  for (const sample of samples.toSorted((a, b) => a.atMs - b.atMs)) {
    flows.get(sample.kind)!.push({ flow: history.flow(sample), seconds: sample.seconds });
    history.record(sample);
    if (sample.recoveryS != null) recoveries.push({ vm: sample.load.vm, seconds: sample.recoveryS });
  }
  const learned = new Map(operationKinds.map((kind) => [kind, fitKind(kind, flows.get(kind)!.slice(-trainingWindow.samples))]));
  const of = (kind: OperationKind): FittedKind => learned.get(kind)!;
  const byKind = <T>(value: (kind: OperationKind) => T) =>
    Object.fromEntries(operationKinds.map((kind) => [kind, value(kind)])) as Record<OperationKind, T>;
  return {
    chosen: byKind((kind) => ({ form: of(kind).form.name, error: of(kind).error })),
    bandwidth: (kind, from, to) => history.bandwidth(kind, from, to),
    recoveryS(vm) {
      const own = recoveries.filter((one) => one.vm === vm);
      const seen = (own.length > 0 ? own : recoveries).slice(-recoveryWindow);
      return seen.length === 0 ? null : median(seen.map(({ seconds }) => seconds));
    },
    preCopy: (operation) => history.preCopy(operation, Math.max(1, operation.concurrency)),
    predict(operations) {
      const parts: Prediction[] = [];
      for (const kind of operationKinds) {
        const flowsHere = operations.filter((one) => one.kind === kind).map((one) => history.flow(one));
        if (flowsHere.length === 0) continue;
        const { form, regression } = of(kind);
        const terms = flowsHere.map((flow): Term => ({ x: form.features(flow), scale: scaleOf(kind, flow) }));
        const part = regression.predict(terms);
        // A line through few points may predict less than any network can do.
        const least = flowsHere.reduce((sum, { aloneS }) => sum + minOperationS + aloneS / 4, 0);
        parts.push({ ...part, mean: Math.max(part.mean, least) });
      }
      return sumPredictions(parts);
    },
  };
}
