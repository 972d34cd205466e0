const second = 1000;
const hour = 3600 * second;

/** After so long without a success an endpoint is disabled. */
export const disabledAfterMs = 5 * 24 * hour;
/** After so long its owner is told that it fails. */
export const warnedAfterMs = hour;

const firstDelayMs = second;
const longestDelayMs = hour;
/** Endpoints that failed together are not tried together. */
const jitter = 0.2;

/**
 * The pause before the next attempt: doubled from a second to an hour, so that the first 28 hours have some 39 attempts, and one
 * that recovers within the first minutes waits little.
 * @param failures so many attempts have failed one after the other, at least one
 * @param retryAfterS what the receiver asked for, at most an hour is granted
 * @param random from 0 to 1
 */
export function retryDelayMs(failures: number, retryAfterS: number | null, random: number): number {
  const doubled = Math.min(longestDelayMs, firstDelayMs * 2 ** Math.min(failures - 1, 30));
  const requestedMs = retryAfterS === null ? 0 : Math.min(longestDelayMs, retryAfterS * second);
  return Math.round(Math.max(requestedMs, doubled * (1 - jitter * random)));
}

/** RFC 9110's preferred form; the obsolete ones are not read. */
const httpDate = /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/;

/** Seconds of a Retry-After header; null: it has none that says seconds or a date. */
export function retryAfterOf(header: string | undefined, nowMs: number): number | null {
  if (header === undefined) return null;
  if (/^\d{1,9}$/.test(header)) return Number(header);
  const ms = httpDate.test(header) ? Date.parse(header) : Number.NaN;
  return Number.isNaN(ms) ? null : Math.max(0, Math.ceil((ms - nowMs) / second));
}
