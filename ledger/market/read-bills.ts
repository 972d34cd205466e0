import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { PriceTerms } from '../../model/money/price-terms.ts';
import type { Ledger } from '../client.ts';
import type { PageRequest } from '../page.ts';
import type { Transaction } from '../transaction.ts';

export interface BillRecord {
  /** The lease's. */
  id: string;
  ownerId: string;
  /** The task or the VM. */
  subjectId: string;
  accountId: string;
  currency: string;
  quoteId: string | null;
  terms: PriceTerms;
  totalMicros: bigint | null;
  chargedMicros: bigint;
  heldMicros: bigint;
  uncollectedMicros: bigint;
  chargedAt: Date | null;
  warnedAt: Date | null;
  suspendedAt: Date | null;
  createdAt: Date;
  endedAt: Date | null;
}

/** Joins the row `b` of "Bill" with the account of its hold, as `h`. */
export const joinHold = Prisma.sql`
  LEFT JOIN "Account" h ON h.kind = 'hold' AND h.holder = b."ownerId" AND h.name = b."leaseId" AND h.currency = b.currency`;

const selectBills = Prisma.sql`
  SELECT b."leaseId" AS id, b."subjectId", b."ownerId", b."accountId", b.currency,
    b."quoteId", b.terms, b."totalMicros", b."chargedMicros", b."uncollectedMicros", b."chargedAt", b."warnedAt", b."suspendedAt",
    b."createdAt", b."endedAt", COALESCE(h.balance, 0) AS "heldMicros"
  FROM "Bill" b ${joinHold}`;

const recordOf = (row: BillRecord): BillRecord => ({ ...row, terms: PriceTerms.parse(row.terms) });
const visibleTo = (owner: string | null) => (owner === null ? Prisma.sql`TRUE` : Prisma.sql`b."ownerId" = ${owner}`);

/** A page and one row more, newest first. @param owner whose; null: everybody's */
export async function readBills(ledger: Ledger, owner: string | null, { limit, after }: PageRequest): Promise<BillRecord[]> {
  const position =
    after === null ? Prisma.sql`TRUE` : Prisma.sql`(b."createdAt", b."leaseId") < (${after.createdAt}, ${after.id})`;
  const rows = await ledger.$queryRaw<BillRecord[]>`${selectBills} WHERE ${visibleTo(owner)} AND ${position}
    ORDER BY b."createdAt" DESC, b."leaseId" DESC LIMIT ${limit + 1}`;
  return rows.map(recordOf);
}

/** @param id of the lease, the task or the standalone VM. Throws not-found. */
export async function findBill(tx: Transaction, owner: string | null, id: string): Promise<BillRecord> {
  const rows = await tx.$queryRaw<BillRecord[]>`
    ${selectBills} WHERE ${visibleTo(owner)} AND (b."leaseId" = ${id} OR b."subjectId" = ${id})`;
  if (rows[0] === undefined)
    throw new BerthError('not-found', `There is no bill of ${id}: it was accepted without prices, or is not there`);
  return recordOf(rows[0]);
}
