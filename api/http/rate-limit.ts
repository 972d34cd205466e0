import type { RequestHandler } from 'express';
import { ipKeyGenerator, rateLimit } from 'express-rate-limit';
import { BerthError } from '../../model/errors.ts';
import { callerOf } from './auth.ts';

const windowMs = 60_000;

/**
 * Limits requests per minute and API key, with the standard RateLimit headers. Counted in this process: with several
 * API processes each has this limit.
 * @param perMinute 0: no limit
 */
export function limitRate(perMinute: number): RequestHandler {
  if (perMinute === 0) return (_req, _res, next) => next();
  return rateLimit({
    windowMs,
    limit: perMinute,
    standardHeaders: 'draft-8',
    legacyHeaders: false,
    identifier: 'requests',
    keyGenerator: (req) => callerOf(req).keyId || ipKeyGenerator(req.socket.remoteAddress ?? ''),
    handler: (_req, _res, next) =>
      next(
        new BerthError(
          'rate-limited',
          `This key has made more than ${perMinute} requests within a minute; wait as Retry-After says`,
        ),
      ),
  });
}
