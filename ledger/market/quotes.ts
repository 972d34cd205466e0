import { BerthError } from '../../model/errors.ts';
import { newId, type QuoteId } from '../../model/ids.ts';
import { PriceTerms, termsOf } from '../../model/money/price-terms.ts';
import { differences, limitsOf, PricedOrder, priceClassOf } from '../../model/money/priced-order.ts';
import type { Transaction } from '../transaction.ts';
import { boundedAmount } from './bounded-amount.ts';
import { findValidPrices } from './price-books.ts';

/** What an order costs, for some time. */
export interface PriceQuote {
  id: QuoteId;
  currency: string;
  /** The most that is charged for it. */
  totalMicros: bigint;
  /** What its acceptance holds. */
  holdMicros: bigint;
  terms: PriceTerms;
  expiresAt: Date;
}

/** Writes a quote at the prices of now; null: nothing has a price. Throws amount-out-of-bounds. */
export async function insertQuote(
  tx: Transaction,
  owner: string,
  order: PricedOrder,
  { nowMs, validS }: { nowMs: number; validS: number },
): Promise<PriceQuote | null> {
  const prices = await findValidPrices(tx, owner, nowMs);
  if (prices === null) return null;
  const terms = termsOf(prices.terms, { image: order.image, kind: priceClassOf(order) });
  const { totalMicros, holdMicros } = limitsOf(terms, order);
  if (totalMicros === null) throw new Error('BUG: a lease without an end was quoted');
  boundedAmount(totalMicros);
  const { book: bookId, currency } = prices;
  const [createdAt, expiresAt] = [new Date(nowMs), new Date(nowMs + validS * 1000)];
  const id = newId('quote');
  await tx.quote.create({ data: { id, ownerId: owner, bookId, currency, order, terms, totalMicros, createdAt, expiresAt } });
  return { id, currency, totalMicros, holdMicros, terms, expiresAt };
}

interface TakenQuote {
  currency: string;
  terms: PriceTerms;
  totalMicros: bigint;
}

/**
 * The quote by which an owner's order is accepted; the caller's bill names it, which no second one can. Throws quote-refused
 * where it has expired, was used, or is of another order.
 */
export async function takeQuote(
  tx: Transaction,
  { id, owner, order, nowMs }: { id: string; owner: string; order: PricedOrder; nowMs: number },
): Promise<TakenQuote> {
  await tx.$queryRaw`SELECT id FROM "Quote" WHERE id = ${id} FOR UPDATE`;
  const row = await tx.quote.findUnique({ where: { id }, include: { bill: { select: { leaseId: true } } } });
  const refuse = (detail: string) =>
    new BerthError('quote-refused', `The quote ${id} ${detail}; ask for a new one (POST /v1/quotes)`, {
      fields: [{ pointer: '/quote', detail }],
    });
  if (row === null || row.ownerId !== owner) throw refuse('does not exist');
  if (row.bill !== null) throw refuse(`was used by the lease ${row.bill.leaseId}`);
  if (row.expiresAt.getTime() <= nowMs) throw refuse(`has expired at ${row.expiresAt.toISOString()}`);
  const other = differences(order, PricedOrder.parse(row.order));
  if (other.length > 0) throw refuse(`is of an order with another ${other.join(', ')}`);
  return { currency: row.currency, terms: PriceTerms.parse(row.terms), totalMicros: row.totalMicros };
}
