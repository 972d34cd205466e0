import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Request, RequestHandler, Response } from 'express';
import { RecentUse } from '../../model/owners/recent-use.ts';
import { Turns } from '../../model/owners/turns.ts';
import { callerOf } from './auth.ts';

/** Parsing, checking and comparing a larger body keeps the process from all other requests for tens of milliseconds. */
const smallBodyBytes = 4 * 1024;
/** After such a request its owner's next one waits for as long as it took, so that others have half of the process. */
const longestRestMs = 1000;

/**
 * Lets one heavy request of an owner in at a time: others' answers are between two of them. The body of one that waits is not
 * read yet, so it takes no memory.
 */
export function takeTurns(isHeavy: (contentLength: number | null) => boolean): RequestHandler {
  const turns = new Turns({ total: Number.POSITIVE_INFINITY, perOwner: 1 });
  return (req, res, next) => {
    const length = req.get('content-length');
    if (!isHeavy(length === undefined ? null : Number(length))) return next();
    admit(turns, callerOf(req).ownerId, res, async (closed) => {
      const began = performance.now();
      next();
      await closed;
      await pause(Math.min(longestRestMs, performance.now() - began));
    });
  };
}

/** Acts when it is the owner's turn, which lasts until the act has ended. Only a caller that has gone is not admitted. */
function admit(turns: Turns, owner: string, res: Response, act: (closed: Promise<void>) => Promise<void>): void {
  const gone = new AbortController();
  const closed = once(res, 'close').then(() => gone.abort());
  turns.run(owner, gone.signal, () => act(closed)).catch(() => undefined);
}

/** How many requests of one owner are worked on at a time, and for how long one counts that does not answer: it waits itself. */
const requestsAtATime = 4;
const longestTurnMs = 1000;

/** Of the time of a turn, the part in which the process had no rest itself: above it, others' requests have waited. */
const busy = 0.5;
/** So many times as long as its request took rests the turn of an owner that uses more of a busy process than the others. */
const restsOfTurn = 3;

/**
 * Lets some requests of an owner in at a time, until each begins to answer: another's is not behind a hundred that came at once.
 * The turns of an owner that uses more than its share of a busy process rest in between.
 */
export function takeRequestTurns(ownerOf = (req: Request): string => callerOf(req).ownerId): RequestHandler {
  const turns = new Turns({ total: Number.POSITIVE_INFINITY, perOwner: requestsAtATime });
  const use = new RecentUse();
  return (req, res, next) => {
    const owner = ownerOf(req);
    admit(turns, owner, res, async (closed) => {
      const [began, loop] = [performance.now(), performance.eventLoopUtilization()];
      const answering = Promise.withResolvers<void>();
      onHeaders(res, () => answering.resolve());
      const timer = setTimeout(answering.resolve, longestTurnMs);
      next();
      await Promise.race([closed, answering.promise]);
      clearTimeout(timer);
      const now = performance.now();
      use.add(owner, now - began, now);
      if (performance.eventLoopUtilization(loop).utilization < busy || !use.isAboveShare(owner, now)) return;
      await pause(Math.min(longestRestMs, restsOfTurn * (now - began)));
    });
  };
}

/** Calls back when the answer's headers are written. */
function onHeaders(res: Response, listener: () => void): void {
  const { writeHead } = res;
  res.writeHead = ((...args: Parameters<typeof writeHead>) => {
    listener();
    return writeHead.apply(res, args);
  }) as typeof writeHead;
}

/** A body of unknown length counts as a large one. */
export const isLargeBody = (contentLength: number | null): boolean => contentLength === null || contentLength > smallBodyBytes;
