import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { newId, type PriceBookId } from '../../model/ids.ts';
import { PriceTerms } from '../../model/money/price-terms.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import { inTransaction, isoOf, requestLimits, type Transaction } from '../transaction.ts';

export interface PriceBookRecord {
  id: PriceBookId;
  currency: string;
  terms: PriceTerms;
  validFrom: Date;
  validUntil: Date | null;
  createdAt: Date;
}

type PriceBookRow = Omit<PriceBookRecord, 'id' | 'terms'> & { id: string; terms: unknown };
const recordOf = (row: PriceBookRow): PriceBookRecord => ({
  ...row,
  id: row.id as PriceBookId,
  terms: PriceTerms.parse(row.terms),
});

export interface PriceBookOrder {
  currency: string;
  terms: PriceTerms;
  validFromMs: number;
  validUntilMs: number | null;
  nowMs: number;
}

/** Adds a price book once for each key. Throws bad-request for one that would be valid at no time, or was so before now. */
export async function acceptPriceBookOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { currency, terms, validFromMs, validUntilMs, nowMs }: PriceBookOrder,
  answer: (book: PriceBookRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const wrong = (pointer: string, detail: string) =>
      new BerthError('bad-request', 'The price book is valid at no time to come', { fields: [{ pointer, detail }] });
    if (validFromMs < nowMs) throw wrong('/validFrom', 'expected a time to come: what was accepted keeps its prices');
    if (validUntilMs !== null && validUntilMs <= validFromMs) throw wrong('/validUntil', 'expected a time after validFrom');
    const validUntil = validUntilMs === null ? null : new Date(validUntilMs);
    const data = {
      id: newId('price'),
      currency,
      terms,
      validFrom: new Date(validFromMs),
      validUntil,
      createdAt: new Date(nowMs),
    };
    return answer(recordOf(await tx.priceBook.create({ data })));
  });
}

export async function readPriceBooks(ledger: Ledger, page: PageRequest): Promise<PriceBookRecord[]> {
  return (await ledger.priceBook.findMany(pageQuery(page, {}))).map(recordOf);
}

/** Nothing is accepted by it from now on; its quotes and bills keep its prices. A repeat changes nothing. Throws not-found. */
export async function changePriceBookEnded(ledger: Ledger, id: string, nowMs: number): Promise<PriceBookRecord> {
  return inTransaction(
    ledger,
    async (tx) => {
      const now = isoOf(nowMs);
      await tx.$executeRaw`
        UPDATE "PriceBook" SET "validUntil" = ${now}::timestamptz
        WHERE id = ${id} AND ("validUntil" IS NULL OR "validUntil" > ${now}::timestamptz)`;
      const row = await tx.priceBook.findUnique({ where: { id } });
      if (row === null) throw new BerthError('not-found', `There is no price book ${id}`);
      return recordOf(row);
    },
    requestLimits,
  );
}

/** Whether the row `b` of "PriceBook" is valid at a time, RFC 3339. */
export const isValidAt = (time: string): Prisma.Sql =>
  Prisma.sql`b."validFrom" <= ${time}::timestamptz AND (b."validUntil" IS NULL OR b."validUntil" > ${time}::timestamptz)`;

/** The prices that are valid for an owner now, and the account that pays them. */
export interface ValidPrices {
  book: string;
  currency: string;
  terms: PriceTerms;
  /** null: the owner has none of that currency. */
  account: string | null;
}

/** Of several currencies the one of the owner's oldest account; null: nothing has a price. */
export async function findValidPrices(tx: Transaction, owner: string, nowMs: number): Promise<ValidPrices | null> {
  const rows = await tx.$queryRaw<(Omit<ValidPrices, 'terms'> & { terms: unknown })[]>`
    SELECT b.id AS book, b.currency, b.terms, a.id AS account FROM "PriceBook" b
    LEFT JOIN "Account" a ON a.kind = 'owner' AND a.holder = ${owner} AND a.name = '' AND a.currency = b.currency
    WHERE ${isValidAt(isoOf(nowMs))}
    ORDER BY a."createdAt" NULLS LAST, a.id, b."validFrom" DESC, b.id DESC LIMIT 1`;
  const [row] = rows;
  return row === undefined ? null : { ...row, terms: PriceTerms.parse(row.terms) };
}
