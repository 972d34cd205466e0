import { setTimeout as delay } from 'node:timers/promises';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import { forgottenMs } from '../../model/streams/frames.ts';

interface Reaching {
  /** Nobody waits for it any more. */
  isOver: () => boolean;
  /** Whether another attempt may succeed after this error; any other is thrown. */
  passes: (code: ErrorCode) => boolean;
  backoff?: { initialMs: number; maxMs: number } | undefined;
}

/** Repeats an attempt to connect until one succeeds, for as long as a guest keeps what is connected to. */
export async function keepReaching(attempt: () => Promise<void>, { isOver, passes, backoff }: Reaching): Promise<void> {
  const { initialMs, maxMs } = backoff ?? { initialMs: 50, maxMs: 1000 };
  const untilMs = performance.now() + forgottenMs;
  for (let pauseMs = initialMs; !isOver(); pauseMs = Math.min(maxMs, pauseMs * 2)) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof BerthError) || !passes(error.code) || performance.now() > untilMs) throw error;
    }
    await delay(pauseMs);
  }
}
