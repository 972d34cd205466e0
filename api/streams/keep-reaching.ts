import { setTimeout as delay } from 'node:timers/promises';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import { forgottenMs } from '../../model/streams/frames.ts';

interface Reaching {
  /** Nobody waits for it any more. */
  isOver: () => boolean;
  /** Whether another attempt may succeed after this error; any other is thrown. */
  passes: (code: ErrorCode) => boolean;
  backoff?: { initialMs: number; maxMs: number } | undefined;
  /** As long as a guest keeps what is connected to, unless said. */
  forMs?: number;
}

/** A VM whose migration is in its last phase is at neither host, or at another one than the ledger has, for a moment. */
const moving: ReadonlySet<ErrorCode> = new Set(['conflict', 'stale-generation', 'vm-moved']);
/** Longer than that, and less than a client waits for an answer. */
const movingMs = 15_000;

/** Repeats an attempt to connect until one succeeds. */
export async function keepReaching(
  attempt: () => Promise<void>,
  { isOver, passes, backoff, forMs = forgottenMs }: Reaching,
): Promise<void> {
  const { initialMs, maxMs } = backoff ?? { initialMs: 50, maxMs: 1000 };
  const untilMs = performance.now() + forMs;
  for (let pauseMs = initialMs; !isOver(); pauseMs = Math.min(maxMs, pauseMs * 2)) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof BerthError) || !passes(error.code) || performance.now() > untilMs) throw error;
    }
    await delay(pauseMs);
  }
}

/** Connects for the first time. Throws what is not a move, at once. */
export const reachDespiteMove = (attempt: () => Promise<void>, given: Pick<Reaching, 'isOver' | 'backoff'>): Promise<void> =>
  keepReaching(attempt, { ...given, passes: (code) => moving.has(code), forMs: movingMs });
