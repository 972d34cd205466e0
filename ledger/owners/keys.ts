import { hashApiKey } from '../../model/api-key.ts';
import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { lockOwner } from './lock-owner.ts';

/** A key without the key: the ledger has its hash alone. */
export interface KeyRecord {
  id: string;
  ownerId: string;
  name: string;
  role: 'client' | 'operator';
  createdAt: Date;
  expiresAt: Date | null;
  revokedAt: Date | null;
}

const shown = { id: true, ownerId: true, name: true, role: true, createdAt: true, expiresAt: true, revokedAt: true } as const;

/** Keys of one owner that are valid. */
const maxKeys = 50;

const isValid = (nowMs: number) => ({ revokedAt: null, OR: [{ expiresAt: null }, { expiresAt: { gt: new Date(nowMs) } }] });

/** @param owner whose keys; null: every owner's */
export async function readKeys(ledger: Ledger, owner: string | null, page: PageRequest): Promise<KeyRecord[]> {
  return ledger.apiKey.findMany({ ...pageQuery(page, { ownerId: owner ?? undefined }), select: shown });
}

/** @param owner whose key; null: any owner's. Throws not-found. */
export async function findKey(tx: Transaction, owner: string | null, id: string): Promise<KeyRecord> {
  const row = await tx.apiKey.findFirst({ where: { id, ...(owner !== null && { ownerId: owner }) }, select: shown });
  if (row === null) throw new BerthError('not-found', `There is no key ${id}`);
  return row;
}

export interface KeyRequest {
  owner: string;
  name: string;
  role: 'client' | 'operator';
  expiresAt: Date | null;
  /** The key itself, of which the hash is kept. */
  key: string;
  nowMs: number;
}

/** Makes a key once for each idempotency key. Throws not-found for an unknown owner, and quota-exceeded. */
export async function acceptKeyOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { owner, name, role, expiresAt, key, nowMs }: KeyRequest,
  answer: (key: KeyRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    await lockOwner(tx, 'keys', owner);
    if ((await tx.owner.count({ where: { id: owner } })) === 0) throw new BerthError('not-found', `There is no owner ${owner}`);
    const count = await tx.apiKey.count({ where: { ownerId: owner, ...isValid(nowMs) } });
    if (count >= maxKeys)
      throw new BerthError('quota-exceeded', `This owner has ${count} valid keys, of at most ${maxKeys}; revoke some`);
    const data = { id: newId('key'), ownerId: owner, name, role, expiresAt, hash: hashApiKey(key), createdAt: new Date(nowMs) };
    return answer(await tx.apiKey.create({ data, select: shown }));
  });
}

/**
 * Revokes a key; a repeat keeps the first time. Throws not-found, and conflict for the last valid key of an operator that does
 * not expire: without one nobody could make another.
 * @param owner whose key; null: any owner's
 */
export async function changeKeyRevoked(ledger: Ledger, owner: string | null, id: string, nowMs: number): Promise<KeyRecord> {
  const work = async (tx: Transaction): Promise<KeyRecord> => {
    await lockOwner(tx, 'keys', 'operators');
    const found = await findKey(tx, owner, id);
    if (found.revokedAt !== null) return found;
    if (found.role === 'operator' && found.expiresAt === null) {
      const others = await tx.apiKey.count({ where: { role: 'operator', id: { not: id }, revokedAt: null, expiresAt: null } });
      if (others === 0)
        throw new BerthError('conflict', `${id} is the last operator's key that does not expire; make another one first`);
    }
    return tx.apiKey.update({ where: { id }, data: { revokedAt: new Date(nowMs) }, select: shown });
  };
  return inTransaction(ledger, work, requestLimits);
}
