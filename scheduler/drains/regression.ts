import jstat from 'jstat';
import { CholeskyDecomposition, Matrix } from 'ml-matrix';
import { median } from '../statistics.ts';

/**
 * Bayesian linear regression with a conjugate prior (normal for the coefficients, inverse gamma for the noise): without
 * data it answers with the prior and a wide interval, with data it becomes the usual regression, and in between it needs
 * no special case. What is to come is Student-t distributed. See Gelman et al., Bayesian Data Analysis, chapter 14, and
 * O'Hagan, Bayesian Inference, chapter 9.
 */

/** One thing to be predicted, or that was measured: its features, and how large an error of it is expected to be. */
export interface Term {
  x: readonly number[];
  /** The noise is proportional to it: what takes a minute is a minute's share off, not a second's. */
  scale: number;
}

export interface DataPoint extends Term {
  y: number;
  /** 1 for a fresh one; less, the older it is. */
  weight: number;
}

export interface Prior {
  /** What is believed of each coefficient, and how far off that may be. */
  mean: readonly number[];
  sd: readonly number[];
  /** Noise of an observation, as a part of its scale. */
  noise: number;
  /** How many observations what is believed of the noise is worth. */
  strength: number;
}

/** Location, spread and degrees of freedom of a Student-t distribution. */
export interface Prediction {
  mean: number;
  spread: number;
  dof: number;
}

export interface Regression {
  /** The sum of independent things that share their coefficients, whose errors therefore add up. */
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
  // Never below nothing, which rounding could make of a perfect fit.
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

/** From so many on it can be told which of them stand out. */
const minForOutliers = 6;
/** Huber's: an error of so many usual ones counts in full, a larger one only in proportion. */
const huberThreshold = 3;
/** Of its scale: no fit is so good that less than this stands out. */
const minTypicalError = 0.05;

/**
 * The same observations, with those that stand out counting less: a network that hung once is no reason to expect that of
 * every move. They are not left out, so the interval still knows of them. Huber, Robust Statistics, chapter 7.
 */
export function downweightOutliers(observations: readonly DataPoint[], prior: Prior): DataPoint[] {
  if (observations.length < minForOutliers) return [...observations];
  const fit = regress(observations, prior);
  const errors = observations.map((one) => Math.abs(one.y - fit.predict([one]).mean) / one.scale);
  const usual = Math.max(minTypicalError, median(errors) * 1.4826);
  return observations.map((one, i) => ({ ...one, weight: one.weight * Math.min(1, (huberThreshold * usual) / errors[i]!) }));
}

/** What the thing stays below with this probability. */
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

/** The mean error, as a part of what was measured, when each observation is predicted from the others. */
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
