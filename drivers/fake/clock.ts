import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../ports/clock.ts';

/**
 * A clock whose time passes only during sleeps: each takes a millisecond of real time, whatever its length, and concurrent
 * sleeps overlap. A job of an hour takes an instant, in the same order every time.
 */
export function createFakeClock(startMs: number = Date.UTC(2026, 0, 1)): Clock {
  let nowMs = startMs;
  return {
    nowMs: () => nowMs,
    async sleep(ms, signal) {
      signal?.throwIfAborted();
      const untilMs = nowMs + ms;
      await delay(1, undefined, { ref: true });
      signal?.throwIfAborted();
      nowMs = Math.max(nowMs, untilMs);
    },
  };
}
