import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import type { Request, RequestHandler, Response } from 'express';
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

/**
 * Lets some requests of an owner in at a time, until each begins to answer: another's is not behind a hundred that came at once.
 */
export function takeRequestTurns(ownerOf = (req: Request): string => callerOf(req).ownerId): RequestHandler {
  const turns = new Turns({ total: Number.POSITIVE_INFINITY, perOwner: requestsAtATime });
  return (req, res, next) =>
    admit(turns, ownerOf(req), res, async (closed) => {
      const answering = Promise.withResolvers<void>();
      onHeaders(res, () => answering.resolve());
      const timer = setTimeout(answering.resolve, longestTurnMs);
      next();
      await Promise.race([closed, answering.promise]);
      clearTimeout(timer);
    });
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
