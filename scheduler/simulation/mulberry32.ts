/** The generator mulberry32, whose state is one 32-bit number. */
export const nextState = (state: number): number => (state + 0x6d2b79f5) >>> 0;

/** What a state stands for: from 0 to below 1. */
export function fractionOf(state: number): number {
  let mixed = Math.imul(state ^ (state >>> 15), state | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}
