import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../model/log.ts';

const longestPauseMs = 5000;

/** Tries until it succeeds, with growing pauses: a process that starts before what it needs waits for it. */
export async function insist<T>(what: string, log: Logger, act: () => Promise<T>): Promise<T> {
  for (let pauseMs = 100; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    try {
      return await act();
    } catch (error) {
      log.warn({ err: error }, `${what} failed; it is tried again in ${pauseMs} ms`);
      await delay(pauseMs);
    }
  }
}
