import { BerthError } from '../model/errors.ts';
import type { Ledger } from './client.ts';
import { inTransaction, requestLimits, type Transaction } from './transaction.ts';

/** What a request was answered with; `text` is kept as it was sent, so that a repeated answer is the same byte for byte. */
export interface StoredAnswer {
  status: number;
  text: string | null;
  location: string | null;
}

export interface IdempotentRequest {
  ownerId: string;
  /** The Idempotency-Key; null: the request has none and is not remembered. */
  key: string | null;
  method: string;
  path: string;
  /** Of the request's content: a key that is used again with another one is refused. */
  fingerprint: string;
}

export interface Acceptance {
  answer: StoredAnswer;
  /** Of what the request created, or acted on: the last segment of the answer's Location. */
  id: string;
  /** The answer is that of an earlier request with the same key. */
  replayed: boolean;
}

const acceptance = (answer: StoredAnswer, replayed: boolean): Acceptance => ({
  answer,
  id: answer.location?.split('/').at(-1) ?? '',
  replayed,
});

/** The remembered answer, null when the key is new; `idempotency-mismatch` when it named another request. */
async function findAnswer(tx: Transaction, request: IdempotentRequest, key: string): Promise<StoredAnswer | null> {
  const row = await tx.idempotency.findUnique({ where: { ownerId_key: { ownerId: request.ownerId, key } } });
  if (!row || row.status === null) return null;
  if (row.method !== request.method || row.path !== request.path || row.fingerprint !== request.fingerprint) {
    throw new BerthError('idempotency-mismatch', `The Idempotency-Key ${key} was used for another request; take a new one`);
  }
  return { status: row.status, text: typeof row.response === 'string' ? row.response : null, location: row.location };
}

/**
 * Does `act` once for each key. The key's row is written in the same transaction as what `act` does, so there is no
 * state in between: a crash undoes both, and of several equal requests at once, the others wait in PostgreSQL for the
 * first one's commit and then read its answer. Refusals are not remembered: they changed nothing.
 */
export async function acceptOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  act: (tx: Transaction) => Promise<StoredAnswer>,
): Promise<Acceptance> {
  const { key } = request;
  const once = async (tx: Transaction): Promise<Acceptance> => {
    if (key === null) return acceptance(await act(tx), false);
    // Waits here while another transaction has the key and is not committed.
    const inserted = await tx.$executeRaw`
        INSERT INTO "Idempotency" ("ownerId", "key", "method", "path", "fingerprint")
        VALUES (${request.ownerId}, ${key}, ${request.method}, ${request.path}, ${request.fingerprint})
        ON CONFLICT ("ownerId", "key") DO NOTHING`;
    if (inserted === 0) {
      const known = await findAnswer(tx, request, key);
      if (!known)
        throw new BerthError('conflict', `The request with the Idempotency-Key ${key} is still under way; repeat this one`);
      return acceptance(known, true);
    }
    const answer = await act(tx);
    // As a JSON string: jsonb would reorder the members of an object, and the answer has to be the same byte for byte.
    await tx.idempotency.update({
      where: { ownerId_key: { ownerId: request.ownerId, key } },
      data: { status: answer.status, response: answer.text ?? '', location: answer.location },
    });
    return acceptance(answer, false);
  };
  return inTransaction(ledger, once, requestLimits);
}

/** Whether this key has named a request before; its answer is not read. */
export async function findIdempotencyKey(ledger: Ledger, ownerId: string, key: string | null): Promise<boolean> {
  if (key === null) return false;
  return (await ledger.idempotency.findUnique({ where: { ownerId_key: { ownerId, key } }, select: { key: true } })) !== null;
}
