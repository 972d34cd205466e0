import type { RequestHandler } from 'express';
import { ipKeyGenerator, rateLimit } from 'express-rate-limit';
import { BerthError } from '../../model/errors.ts';
import { type Caller, callerOf } from './auth.ts';

const windowMs = 60_000;

/**
 * Limits requests per minute and share, with the standard RateLimit headers. Counted in this process: with several API
 * processes each has this limit.
 * @param perMinute 0: no limit
 * @param what of the headers and of the message
 * @param shareOf whose requests are counted together
 */
export function limitRate(perMinute: number, what: 'requests' | 'plans', shareOf: (caller: Caller) => string): RequestHandler {
  if (perMinute === 0) return (_req, _res, next) => next();
  return rateLimit({
    windowMs,
    limit: perMinute,
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    identifier: what,
    keyGenerator: (req) => shareOf(callerOf(req)) || ipKeyGenerator(req.socket.remoteAddress ?? ''),
    handler: (_req, _res, next) =>
      next(new BerthError('rate-limited', `More than ${perMinute} ${what} were made within a minute; wait as Retry-After says`)),
  });
}
