import { createHash } from 'node:crypto';
import type { Request } from 'express';
import type { Ledger } from '../../ledger/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Answer } from './answer.ts';
export type Transaction = Parameters<Parameters<Ledger['$transaction']>[0]>[0];

/** How long (ms) a transaction waits for a connection, and how long it may take: equal requests wait for each other. */
export const transactionLimits = { maxWait: 20_000, timeout: 30_000 } as const;

const keyPattern = /^[\x21-\x7e]{1,255}$/;

/** The Idempotency-Key header, or null; `bad-request` when it is no key. */
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

/** SHA-256 over what was asked: parts are told apart by their lengths. */
export function fingerprint(...parts: (string | Buffer)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(`${Buffer.byteLength(part)}:`).update(part);
  return hash.digest('hex');
}

export interface IdempotentRequest {
  ownerId: string;
  key: string | null;
  method: string;
  path: string;
  fingerprint: string;
}

/** The remembered answer, null when the key is new; `idempotency-mismatch` when it named another request. */
async function readAnswer(tx: Transaction | Ledger, claim: IdempotentRequest, key: string): Promise<Answer | null> {
  const row = await tx.idempotency.findUnique({ where: { ownerId_key: { ownerId: claim.ownerId, key } } });
  if (!row || row.status === null) return null;
  if (row.method !== claim.method || row.path !== claim.path || row.fingerprint !== claim.fingerprint) {
    throw new BerthError('idempotency-mismatch', `The Idempotency-Key ${key} was used for another request; take a new one`);
  }
  return { status: row.status, text: typeof row.response === 'string' ? row.response : null, location: row.location };
}

/**
 * Does `act` once for each key. The key's row is written in the same transaction as what `act` does, so there is no
 * state in between: a crash undoes both, and of any number of equal requests at once, the others wait in PostgreSQL
 * for the first one's commit and then read its answer. Refusals are not remembered: they changed nothing.
 */
export async function runOnce(
  ledger: Ledger,
  claim: IdempotentRequest,
  act: (tx: Transaction) => Promise<Answer>,
): Promise<{ answer: Answer; replayed: boolean }> {
  const { key } = claim;
  if (key !== null) {
    const known = await readAnswer(ledger, claim, key);
    if (known) return { answer: known, replayed: true };
  }
  return ledger.$transaction(async (tx) => {
    if (key === null) return { answer: await act(tx), replayed: false };
    // Waits here while another transaction has the key and is not committed.
    const inserted = await tx.$executeRaw`
        INSERT INTO "Idempotency" ("ownerId", "key", "method", "path", "fingerprint")
        VALUES (${claim.ownerId}, ${key}, ${claim.method}, ${claim.path}, ${claim.fingerprint})
        ON CONFLICT ("ownerId", "key") DO NOTHING`;
    if (inserted === 0) {
      const known = await readAnswer(tx, claim, key);
      if (!known)
        throw new BerthError('conflict', `The request with the Idempotency-Key ${key} is still under way; repeat this one`);
      return { answer: known, replayed: true };
    }
    const answer = await act(tx);
    // As a JSON string: jsonb would reorder the members of an object, and the answer is to be the same byte for byte.
    await tx.idempotency.update({
      where: { ownerId_key: { ownerId: claim.ownerId, key } },
      data: { status: answer.status, response: answer.text ?? '', location: answer.location },
    });
    return { answer, replayed: false };
  }, transactionLimits);
}

/** Whether this key has named a request before; its answer is not looked at. */
export async function isKeyUsed(ledger: Ledger, ownerId: string, key: string | null): Promise<boolean> {
  if (key === null) return false;
  return (await ledger.idempotency.findUnique({ where: { ownerId_key: { ownerId, key } }, select: { key: true } })) !== null;
}
