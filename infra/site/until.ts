import { setTimeout as delay } from 'node:timers/promises';

const firstPauseMs = 20;

/**
 * Polls, at first at short intervals and then every `everyMs`, until the answer isn't null, undefined or false. Throws
 * after `deadlineMs`, with `what` and the last error that a poll threw.
 */
export async function until<T>(
  what: string,
  deadlineMs: number,
  ask: () => T | null | undefined | false | Promise<T | null | undefined | false>,
  everyMs = 150,
): Promise<T> {
  const deadline = Date.now() + deadlineMs;
  let last: unknown;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 1.5, everyMs)) {
    try {
      const answer = await ask();
      if (answer !== null && answer !== undefined && answer !== false) return answer;
      last = undefined;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline)
      throw new Error(`${what}: not so after ${deadlineMs} ms`, last === undefined ? {} : { cause: last });
    await delay(pauseMs);
  }
}
