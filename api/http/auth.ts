import type { Request, RequestHandler } from 'express';
import type { Ledger } from '../../ledger/client.ts';
import { findApiKey } from '../../ledger/owners/find-api-key.ts';
import { hashApiKey } from '../../model/api-key.ts';
import { BerthError } from '../../model/errors.ts';
import { isEdgeKey, isHostKey } from '../../model/repository/host-key.ts';
import { type SigningKeys, type UrlVerdict, verifySignedUrl } from '../../model/signed-url.ts';
import type { OpenRequests } from './open-requests.ts';
import type { limitUnknownKeys } from './unknown-keys.ts';

/** The bearer of an API key. A client sees what its owner has; an operator sees everything. */
export interface Caller {
  keyId: string;
  ownerId: string;
  role: 'client' | 'operator';
}

/** Of routes without a caller: open ones, and those that take a signed URL. */
export const anonymous: Caller = { keyId: '', ownerId: '', role: 'client' };

/** How long a revoked key may still be taken by one process: half of what is promised, for the query and a busy machine. */
const cacheMs = 1_000;
const cacheEntries = 10_000;

/** The keys of the ledger, as one process knows them. */
interface Keyring {
  /** Whether the key was valid when it was last looked up here, or is being looked up: another request costs no further query. */
  knows(key: string): boolean;
  /** null: there is no such key, it was revoked, or it has expired. */
  find(key: string): Promise<Caller | null>;
}

/** Finds keys by their hash. Only keys that exist are remembered, so a new key works at once. */
export function openKeyring(ledger: Ledger, clock: () => number): Keyring {
  const known = new Map<string, { caller: Caller; until: number }>();
  /** Many requests of a key at once are one query. */
  const lookups = new Map<string, Promise<Caller | null>>();

  async function lookUp(hash: string): Promise<Caller | null> {
    const row = await findApiKey(ledger, hash, clock());
    known.delete(hash);
    if (row === null) return null;
    const caller: Caller = { keyId: row.id, ownerId: row.ownerId, role: row.role };
    const oldest = known.keys().next();
    if (known.size >= cacheEntries && !oldest.done) known.delete(oldest.value);
    const until = Math.min(clock() + cacheMs, row.expiresAt?.getTime() ?? Number.POSITIVE_INFINITY);
    known.set(hash, { caller, until });
    return caller;
  }

  return {
    knows(key) {
      const hash = hashApiKey(key);
      return known.has(hash) || lookups.has(hash);
    },
    async find(key) {
      const hash = hashApiKey(key);
      const cached = known.get(hash);
      if (cached && cached.until > clock()) return cached.caller;
      const underWay = lookups.get(hash);
      if (underWay !== undefined) return underWay;
      const lookup = lookUp(hash).finally(() => lookups.delete(hash));
      lookups.set(hash, lookup);
      return lookup;
    },
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

/** The key of an Authorization header; null where there is none that could be one. */
function bearerOf(req: Request): string | null {
  return /^Bearer ([\x21-\x7e]{1,256})$/i.exec(req.headers.authorization ?? '')?.[1] ?? null;
}

interface Authentication {
  keyring: Keyring;
  unknownKeys: ReturnType<typeof limitUnknownKeys>;
  openRequests: OpenRequests;
}

/** 401 without a valid key, and 429 after many unknown ones from one address. */
export function authenticate({ keyring, unknownKeys, openRequests }: Authentication): RequestHandler {
  async function findCaller(key: string, address: string): Promise<Caller | null> {
    if (keyring.knows(key)) return keyring.find(key);
    unknownKeys.admit(address);
    const caller = await keyring.find(key);
    if (caller !== null) unknownKeys.refund(address);
    return caller;
  }
  return async (req, res, next) => {
    const key = bearerOf(req);
    const caller = key === null ? null : await findCaller(key, req.socket.remoteAddress ?? '');
    if (!caller) {
      const found = req.headers.authorization === undefined ? 'no Authorization header' : 'a key that is not valid';
      throw new BerthError('unauthenticated', `Found ${found}; expected "Authorization: Bearer <api key>"`);
    }
    callers.set(req, caller);
    openRequests.track(caller.keyId, res);
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

/** Requires the key of the host, or of the edge, that the path names. */
export function requireMachineKey(keys: SigningKeys, kind: 'host' | 'edge'): RequestHandler {
  const [param, isKey] = kind === 'host' ? (['hostId', isHostKey] as const) : (['edgeId', isEdgeKey] as const);
  return (req, _res, next) => {
    const key = bearerOf(req);
    const id = req.params[param];
    if (typeof id !== 'string' || key === null || !isKey(keys, id, key))
      throw new BerthError('unauthenticated', `Found no key of this ${kind}; expected "Authorization: Bearer <${kind} key>"`);
    next();
  };
}
