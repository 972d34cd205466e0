/**
 * Exact arithmetic of money. A cost is an integer of cost parts, so small that a millisecond of a MiB at a price in micro-units
 * is a whole number of them: nothing is rounded before the posting.
 */

export const msPerHour = 3_600_000n;
export const mibPerGiB = 1024n;
export const costPartsPerMicro = msPerHour * mibPerGiB;

/** Shares are counted in millionths. */
export const millionths = 1_000_000n;

export const least = (a: bigint, b: bigint): bigint => (a < b ? a : b);
export const greatest = (a: bigint, b: bigint): bigint => (a > b ? a : b);

/** numerator / denominator, rounded half to even. @param denominator above zero */
export function divideHalfEven(numerator: bigint, denominator: bigint): bigint {
  if (denominator <= 0n) throw new Error(`BUG: ${numerator} is divided by ${denominator}`);
  const truncated = numerator / denominator;
  const twice = (numerator % denominator) * 2n;
  const magnitude = twice < 0n ? -twice : twice;
  if (magnitude < denominator || (magnitude === denominator && truncated % 2n === 0n)) return truncated;
  return truncated + (numerator < 0n ? -1n : 1n);
}

/** The smallest whole number that is not below numerator / denominator; both are not below zero. */
export const divideUp = (numerator: bigint, denominator: bigint): bigint => (numerator + denominator - 1n) / denominator;
