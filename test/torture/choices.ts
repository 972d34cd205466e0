/** Random choices that a seed repeats: mulberry32, one stream for each run, independent of what earlier runs used. */
export interface Choices {
  /** A whole number from 0 to below `limit`. */
  below(limit: number): number;
  one<T>(of: readonly T[]): T;
  /** All of them, in another order. */
  shuffled<T>(of: readonly T[]): T[];
}

export function choicesOf(seed: number, run: number): Choices {
  let state = (Math.imul(seed, 0x9e3779b1) ^ Math.imul(run + 1, 0x85ebca6b)) >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit: number): number => Math.floor(next() * limit);
  return {
    below,
    one: (of) => of[below(of.length)]!,
    shuffled(of) {
      const order = [...of];
      for (let last = order.length - 1; last > 0; last -= 1) {
        const other = below(last + 1);
        [order[last], order[other]] = [order[other]!, order[last]!];
      }
      return order;
    },
  };
}
