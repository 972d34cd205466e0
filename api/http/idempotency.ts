import { createHash } from 'node:crypto';
import type { Request } from 'express';
import type { IdempotentRequest } from '../../ledger/idempotency.ts';
import { BerthError } from '../../model/errors.ts';
import type { Caller } from './auth.ts';

const keyPattern = /^[\x21-\x7e]{1,255}$/;

/** The Idempotency-Key header, or null; `bad-request` when it is not a valid key. */
export function readIdempotencyKey(req: Request): string | null {
  const key = req.get('idempotency-key');
  if (key === undefined) return null;
  if (keyPattern.test(key)) return key;
  throw new BerthError('bad-request', 'The Idempotency-Key is not valid', {
    fields: [
      { pointer: 'header.Idempotency-Key', detail: `found ${key.length} characters; expected 1 to 255 visible ASCII ones` },
    ],
  });
}

/** SHA-256 over a request's content: each part is preceded by its length, so that parts cannot run together. */
export function fingerprint(...parts: string[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${Buffer.byteLength(part)}:`).update(part);
  return hash.digest('hex');
}

/** JSON with the members of each object in the order of their names: one text for one meaning. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, member: unknown) =>
    typeof member === 'object' && member !== null && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
      : member,
  );
}

/**
 * A POST as the ledger remembers it.
 * @param content the body as it was parsed, so that neither the order of its fields nor a default that is spelled out makes
 *   it another request; undefined for a request without a body
 */
export function idempotentPost(caller: Caller, key: string | null, path: string, content: unknown): IdempotentRequest {
  const text = content === undefined ? '' : canonicalJson(content);
  return { ownerId: caller.ownerId, key, method: 'POST', path, fingerprint: fingerprint(text) };
}
