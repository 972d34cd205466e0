import type { Request, RequestHandler } from 'express';
import type { Ledger } from '../../ledger/client.ts';
import { findApiKey } from '../../ledger/owners/find-api-key.ts';
import { hashApiKey } from '../../model/api-key.ts';
import { BerthError } from '../../model/errors.ts';
import { type SigningKeys, type UrlVerdict, verifySignedUrl } from '../../model/signed-url.ts';

/** The bearer of an API key. A client sees what its owner has; an operator sees everything. */
export interface Caller {
  keyId: string;
  ownerId: string;
  role: 'client' | 'operator';
}

/** Of routes without a caller: open ones, and those that take a signed URL. */
export const anonymous: Caller = { keyId: '', ownerId: '', role: 'client' };

/** How long a revoked key may still work in one process. */
const cacheMs = 2_000;
const cacheEntries = 10_000;

/** Finds keys by their hash. Only keys that exist are remembered, so a new key works at once. */
export function openKeyring(ledger: Ledger, clock: () => number): (key: string) => Promise<Caller | null> {
  const known = new Map<string, { caller: Caller; until: number }>();
  return async (key) => {
    const hash = hashApiKey(key);
    const cached = known.get(hash);
    if (cached && cached.until > clock()) return cached.caller;
    known.delete(hash);
    const row = await findApiKey(ledger, hash);
    if (row === null) return null;
    const caller: Caller = { keyId: row.id, ownerId: row.ownerId, role: row.role };
    const oldest = known.keys().next();
    if (known.size >= cacheEntries && !oldest.done) known.delete(oldest.value);
    known.set(hash, { caller, until: clock() + cacheMs });
    return caller;
  };
}

/** Whose resources a caller sees; null: every owner's. */
export function visibleOwner(caller: Caller): string | null {
  return caller.role === 'operator' ? null : caller.ownerId;
}

const callers = new WeakMap<Request, Caller>();

export function callerOf(req: Request): Caller {
  return callers.get(req) ?? anonymous;
}

/** 401 without a valid key. */
export function authenticate(find: (key: string) => Promise<Caller | null>): RequestHandler {
  return async (req, _res, next) => {
    const match = /^Bearer ([\x21-\x7e]{1,256})$/i.exec(req.headers.authorization ?? '');
    const caller = match ? await find(match[1]!) : null;
    if (!caller) {
      const found = req.headers.authorization === undefined ? 'no Authorization header' : 'a key that is not valid';
      throw new BerthError('unauthenticated', `Found ${found}; expected "Authorization: Bearer <api key>"`);
    }
    callers.set(req, caller);
    next();
  };
}

export const requireOperator: RequestHandler = (req, _res, next) => {
  if (callerOf(req).role !== 'operator') throw new BerthError('forbidden', 'This route is for keys with the operator role');
  next();
};

const refusals: Record<Exclude<UrlVerdict, 'valid'>, string> = {
  expired: 'This signed URL has expired; ask for a new one',
  'unknown-key': 'This URL is signed by a key that is not valid any more, or not yet; ask for a new one',
  invalid: 'This URL is not signed for this method and path',
};

/** Requires a URL that is signed for this method and path and has not expired; host workers have such URLs. */
export function requireSignature(keys: SigningKeys, clock: () => number): RequestHandler {
  return (req, _res, next) => {
    const { expires, signature, key } = req.query;
    const wellFormed =
      typeof expires === 'string' && typeof signature === 'string' && (key === undefined || typeof key === 'string');
    const verdict = wellFormed
      ? verifySignedUrl(keys, req.method, req.path, { expires, signature, keyId: key ?? null }, clock())
      : 'invalid';
    if (verdict !== 'valid') throw new BerthError('forbidden', refusals[verdict]);
    next();
  };
}
