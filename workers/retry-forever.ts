import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../model/log.ts';

const maxBackoffMs = 5000;

/** Retries with exponential backoff until it succeeds: a process that starts before its servers waits for them. */
export async function retryForever<T>(what: string, log: Logger, act: () => Promise<T>): Promise<T> {
  for (let backoffMs = 100; ; backoffMs = Math.min(backoffMs * 2, maxBackoffMs)) {
    try {
      return await act();
    } catch (error) {
      log.warn({ err: error }, `${what} failed; it is retried in ${backoffMs} ms`);
      await delay(backoffMs);
    }
  }
}
