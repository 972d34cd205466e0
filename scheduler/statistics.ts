/** Of a normal distribution: standard deviations per median absolute deviation. */
export const madToSigma = 1.4826;

/**
 * A bound that nearly all typical values are below: the median plus three standard deviations, estimated from the median
 * absolute deviation. Outliers among less than half of the values change it little (Hampel's identifier).
 * @param values at least one
 */
export function typicalMax(values: readonly number[]): number {
  const middle = median(values);
  return middle + 3 * madToSigma * median(values.map((value) => Math.abs(value - middle)));
}

/** The middle one, or the mean of the two in the middle. @param values at least one */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}
