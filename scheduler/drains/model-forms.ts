import type { OperationKind } from './migration-operations.ts';
import { crossValidate, type DataPoint, downweightOutliers, type Prior, type Regression, regress } from './regression.ts';
import type { Flow } from './transfer-history.ts';

/** The forms of regression that are tried for each kind of operation, and their fit to samples. */

/** How many samples of a kind are used, and after how many more the weight of one is halved. */
export const trainingWindow = { samples: 80, halfLife: 10 } as const;
/** From this many samples on, forms other than the linear one are tried; fewer can't distinguish them. */
const minSamplesForForms = 6;
/** The error of a form with more coefficients must be this much smaller. */
const requiredErrorRatio = 0.9;

interface ModelForm {
  name: string;
  features(flow: Flow): number[];
  prior: Prior;
}

const noisePrior = { noise: 0.35, strength: 3 } as const;
/** No operation is shorter, whatever a line through few points predicts. */
export const minOperationS = 0.05;
/** Seconds that do not depend on the flow. */
const fixedOverheadS: Record<OperationKind, number> = { live: 1.2, suspend: 0.4, copy: 1, resume: 1, disks: 1 };

function formsOf(kind: OperationKind): ModelForm[] {
  const constant = fixedOverheadS[kind];
  return [
    {
      name: 'linear',
      features: ({ sharedS, otherOperations }) => [1, sharedS, otherOperations],
      prior: { mean: [constant, 1, 0.3], sd: [constant, 0.5, 0.5], ...noisePrior },
    },
    {
      // For operations that share the processor and not the network.
      name: 'linear, unshared',
      features: ({ aloneS, otherOperations }) => [1, aloneS, otherOperations, aloneS * otherOperations],
      prior: { mean: [constant, 1, 0.3, 0.5], sd: [constant, 0.5, 0.5, 0.5], ...noisePrior },
    },
    {
      // Copies onto a disk grow faster than their size (Zhao and Figueiredo, figure 4).
      name: 'polynomial',
      features: ({ sharedS, otherOperations }) => [1, sharedS, otherOperations, sharedS ** 2 / 10],
      prior: { mean: [constant, 1, 0.3, 0], sd: [constant, 0.5, 0.5, 0.3], ...noisePrior },
    },
  ];
}

export const scaleOf = (kind: OperationKind, flow: Flow): number => fixedOverheadS[kind] + flow.sharedS;

export interface FittedKind {
  form: ModelForm;
  regression: Regression;
  error: number | null;
}

export function fitKind(kind: OperationKind, seen: readonly { flow: Flow; seconds: number }[]): FittedKind {
  const candidates = formsOf(kind).map((form) => {
    const observations = seen.map(
      ({ flow, seconds }, i): DataPoint => ({
        x: form.features(flow),
        y: seconds,
        scale: scaleOf(kind, flow),
        weight: 0.5 ** ((seen.length - 1 - i) / trainingWindow.halfLife),
      }),
    );
    return { form, observations };
  });
  const [plain, ...others] = candidates;
  if (plain === undefined) throw new Error('BUG: a kind of operation without a form');
  let best = { ...plain, error: seen.length === 0 ? null : crossValidate(plain.observations, plain.form.prior) };
  if (best.error !== null && seen.length >= minSamplesForForms)
    for (const other of others) {
      const error = crossValidate(other.observations, other.form.prior);
      if (error < best.error! * requiredErrorRatio) best = { ...other, error };
    }
  const { form, observations, error } = best;
  return { form, regression: regress(downweightOutliers(observations, form.prior), form.prior), error };
}
