/** Of a normal distribution: how many standard deviations a median absolute deviation is the part of. */
const madToSigma = 1.4826;

/**
 * What nearly all of the values are below as they usually are: the median and three standard deviations, these taken from
 * the median absolute deviation. Less than half of the values can be anything without moving it far (Hampel's identifier).
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
