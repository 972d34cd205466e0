import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import { type QuotaLimits, type QuotaName, quotaColumns, quotaNames } from '../../model/owners/quota.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { type Quotas, readQuotas } from './quotas.ts';

/** An owner with its quotas, and what counts against them now. */
export interface OwnerRecord {
  id: string;
  name: string;
  createdAt: Date;
  quotas: Quotas;
}

/** Limits of an owner; null: the site's. One that is not there does not change. */
export type QuotaChange = { [name in QuotaName]?: number | null | undefined };

interface Site {
  limits: QuotaLimits;
  nowMs: number;
}

const identity = { id: true, name: true, createdAt: true } as const;

async function withQuotas(tx: Transaction, row: Omit<OwnerRecord, 'quotas'>, { limits, nowMs }: Site): Promise<OwnerRecord> {
  return { ...row, quotas: await readQuotas(tx, row.id, limits, nowMs) };
}

/** Throws not-found. */
export async function findOwner(tx: Transaction, id: string, site: Site): Promise<OwnerRecord> {
  const row = await tx.owner.findUnique({ where: { id }, select: identity });
  if (row === null) throw new BerthError('not-found', `There is no owner ${id}`);
  return withQuotas(tx, row, site);
}

export async function readOwners(ledger: Ledger, page: PageRequest, site: Site): Promise<OwnerRecord[]> {
  const rows = await ledger.owner.findMany({ ...pageQuery(page, {}), select: identity });
  const owners: OwnerRecord[] = [];
  // One after the other: a page must not take all connections of the pool.
  for (const row of rows) owners.push(await withQuotas(ledger, row, site));
  return owners;
}

function columnsOf(change: QuotaChange): Record<string, number | bigint | null> {
  const given = quotaNames.flatMap((name) => {
    const limit = change[name];
    if (limit === undefined) return [];
    return [[quotaColumns[name], name === 'bytes' && limit !== null ? BigInt(limit) : limit] as const];
  });
  return Object.fromEntries(given);
}

/** Makes an owner once for each idempotency key. Throws conflict for a name that another one has. */
export async function acceptOwnerOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { name, quotas, site }: { name: string; quotas: QuotaChange; site: Site },
  answer: (owner: OwnerRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const id = newId('owner');
    const created = await tx.owner.createMany({
      data: { id, name, createdAt: new Date(site.nowMs), ...columnsOf(quotas) },
      skipDuplicates: true,
    });
    if (created.count === 0) throw new BerthError('conflict', `There is an owner ${JSON.stringify(name)} already`);
    return answer(await findOwner(tx, id, site));
  });
}

/** Changes quotas; what an owner has beyond them stays, and nothing is added. Throws not-found. */
export async function changeOwnerQuotas(ledger: Ledger, id: string, change: QuotaChange, site: Site): Promise<OwnerRecord> {
  const work = async (tx: Transaction): Promise<OwnerRecord> => {
    await tx.owner.updateMany({ where: { id }, data: columnsOf(change) });
    return findOwner(tx, id, site);
  };
  return inTransaction(ledger, work, requestLimits);
}
