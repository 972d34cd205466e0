import type { Clock } from '../ports/clock.ts';

interface PollOptions {
  pollMs: number;
  /** From the first probe on; without it only the signal ends the polling. */
  deadlineMs?: number;
  signal?: AbortSignal;
}

/**
 * Probes until the probe returns something other than null, and returns that; null when the deadline has passed. Rejects
 * with the signal's reason when that aborts first.
 */
export async function pollUntil<T>(clock: Clock, options: PollOptions, probe: () => Promise<T | null>): Promise<T | null> {
  const untilMs = clock.nowMs() + (options.deadlineMs ?? Number.POSITIVE_INFINITY);
  for (;;) {
    options.signal?.throwIfAborted();
    const found = await probe();
    if (found !== null) return found;
    if (clock.nowMs() > untilMs) return null;
    await clock.sleep(options.pollMs, options.signal);
  }
}
