import { BerthError } from '../../model/errors.ts';

const windowMs = 60_000;
/** Addresses that are remembered; the oldest is forgotten first. */
const maxAddresses = 10_000;

/**
 * Bounds the work that an address causes before it has shown a key that exists: each unknown key is a query. Counted before
 * the query, so that a thousand at once are bounded as well.
 * @param perMinute 0: no limit
 */
export function limitUnknownKeys(perMinute: number, clock: () => number) {
  const counts = new Map<string, { left: number; untilMs: number }>();
  const countOf = (address: string) => {
    const found = counts.get(address);
    if (found !== undefined && found.untilMs > clock()) return found;
    counts.delete(address);
    const oldest = counts.keys().next();
    if (counts.size >= maxAddresses && !oldest.done) counts.delete(oldest.value);
    const fresh = { left: perMinute, untilMs: clock() + windowMs };
    counts.set(address, fresh);
    return fresh;
  };
  return {
    /** Throws rate-limited. */
    admit(address: string): void {
      if (perMinute === 0) return;
      const count = countOf(address);
      if (count.left <= 0)
        throw new BerthError('rate-limited', `More than ${perMinute} unknown keys came from this address within a minute; wait`);
      count.left -= 1;
    },
    /** The key existed after all. */
    refund(address: string): void {
      const count = counts.get(address);
      if (count !== undefined) count.left += 1;
    },
  };
}
