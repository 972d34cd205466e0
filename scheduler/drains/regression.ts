import jstat from 'jstat';
import { CholeskyDecomposition, Matrix } from 'ml-matrix';
import { madToSigma, median } from '../statistics.ts';

/**
 * Bayesian linear regression with a conjugate prior (normal for the coefficients, inverse gamma for the noise): without
 * data it predicts the prior with a wide interval, with data it becomes the usual regression, without a special case in
 * between. Predictions are Student-t distributed. See Gelman et al., Bayesian Data Analysis, chapter 14, and
 * O'Hagan, Bayesian Inference, chapter 9.
 */

/** A quantity to predict or a measured one: its features, and the size of its expected error. */
export interface Term {
  x: readonly number[];
  /** The noise is proportional to it: a minute's prediction errs by a part of a minute, not of a second. */
  scale: number;
}

export interface DataPoint extends Term {
  y: number;
  /** 1 for the latest; decreases with age. */
  weight: number;
}

export interface Prior {
  /** The expected value and standard deviation of each coefficient. */
  mean: readonly number[];
  sd: readonly number[];
  /** Noise of a data point, as a part of its scale. */
  noise: number;
  /** The weight of the noise's prior, in data points. */
  strength: number;
}

/** Location, spread and degrees of freedom of a Student-t distribution. */
export interface Prediction {
  mean: number;
  spread: number;
  dof: number;
}

export interface Regression {
  /** The sum of independent quantities; they share the coefficients, so the errors of these add up. */
  predict(terms: readonly Term[]): Prediction;
}

export function regress(observations: readonly DataPoint[], prior: Prior): Regression {
  const p = prior.mean.length;
  const m0 = Matrix.columnVector([...prior.mean]);
  const precision0 = Matrix.diag(prior.sd.map((sd) => (prior.noise / sd) ** 2));
  const precision = precision0.clone();
  const moment = precision0.mmul(m0);
  let squares = m0.transpose().mmul(precision0).mmul(m0).get(0, 0);
  let n = 0;
  for (const { x, y, scale, weight } of observations) {
    if (x.length !== p) throw new Error(`BUG: ${x.length} features where the prior has ${p}`);
    const w = weight / scale ** 2;
    for (let i = 0; i < p; i++) {
      moment.set(i, 0, moment.get(i, 0) + w * x[i]! * y);
      for (let j = 0; j < p; j++) precision.set(i, j, precision.get(i, j) + w * (x[i]! * x[j]!));
    }
    squares += w * y * y;
    n += weight;
  }
  const solver = new CholeskyDecomposition(precision);
  const mean = solver.solve(moment);
  const dof = prior.strength + n;
  const explained = mean.transpose().mmul(moment).get(0, 0);
  // Rounding could make it negative for a perfect fit.
  const variance = Math.max(0, prior.strength * prior.noise ** 2 + squares - explained) / dof;
  return {
    predict(terms) {
      const sum = Matrix.zeros(p, 1);
      let noise = 0;
      for (const { x, scale } of terms) {
        for (let i = 0; i < p; i++) sum.set(i, 0, sum.get(i, 0) + x[i]!);
        noise += scale ** 2;
      }
      const uncertainty = sum.transpose().mmul(solver.solve(sum)).get(0, 0);
      return { mean: mean.transpose().mmul(sum).get(0, 0), spread: Math.sqrt(variance * (noise + uncertainty)), dof };
    },
  };
}

/** Fewer data points don't tell outliers. */
const minForOutliers = 6;
/** Huber's: an error up to this many typical ones has full weight, a larger one proportionally less. */
const huberThreshold = 3;
/** As a part of the scale: a smaller error is never an outlier. */
const minTypicalError = 0.05;

/**
 * The same data points with less weight for outliers: one stalled transfer must not change the prediction for every move.
 * They are not removed, so they still widen the interval. Huber, Robust Statistics, chapter 7.
 */
export function downweightOutliers(observations: readonly DataPoint[], prior: Prior): DataPoint[] {
  if (observations.length < minForOutliers) return [...observations];
  const fit = regress(observations, prior);
  const errors = observations.map((one) => Math.abs(one.y - fit.predict([one]).mean) / one.scale);
  const typicalError = Math.max(minTypicalError, median(errors) * madToSigma);
  return observations.map((one, i) => ({
    ...one,
    weight: one.weight * Math.min(1, (huberThreshold * typicalError) / errors[i]!),
  }));
}

/** The value that the quantity stays below with this probability. */
export function upperBound({ mean, spread, dof }: Prediction, confidence: number): number {
  return spread === 0 ? mean : mean + jstat.studentt.inv(confidence, dof) * spread;
}

/**
 * The sum of predictions from different regressions. Its degrees of freedom are Welch and Satterthwaite's, and no fewer
 * than the least of the parts'.
 */
export function sumPredictions(parts: readonly Prediction[]): Prediction {
  const mean = parts.reduce((sum, part) => sum + part.mean, 0);
  const variance = parts.reduce((sum, part) => sum + part.spread ** 2, 0);
  const least = parts.reduce((dof, part) => Math.min(dof, part.dof), Number.POSITIVE_INFINITY);
  const quartic = parts.reduce((sum, part) => sum + part.spread ** 4 / part.dof, 0);
  return { mean, spread: Math.sqrt(variance), dof: quartic === 0 ? least : Math.max(least, variance ** 2 / quartic) };
}

/** The mean relative error when each data point is predicted from the others. */
export function crossValidate(observations: readonly DataPoint[], prior: Prior): number {
  let error = 0;
  let weights = 0;
  for (const [i, one] of observations.entries()) {
    const { mean } = regress(observations.toSpliced(i, 1), prior).predict([one]);
    error += one.weight * Math.abs(mean / one.y - 1);
    weights += one.weight;
  }
  return weights === 0 ? 0 : error / weights;
}
