import { BerthError } from '../../model/errors.ts';
import type { AccountId } from '../../model/ids.ts';
import type { MarketTerms } from '../../model/market/offer.ts';
import { termsOf } from '../../model/money/price-terms.ts';
import { hasFixedStart, limitsOf, type PricedOrder, priceClassOf, pricedOrder } from '../../model/money/priced-order.ts';
import { unboundedDurationS } from '../../model/vm-request.ts';
import { placeHold } from '../books/holds.ts';
import { takeOffers } from '../offers/take-offers.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';
import { boundedAmount } from './bounded-amount.ts';
import { billing } from './intervals.ts';
import { findValidPrices } from './price-books.ts';
import { takeQuote } from './quotes.ts';

interface LeaseOrderRow {
  kind: PricedOrder['kind'];
  durationS: number;
  preemptible: boolean;
  startAt: Date | null;
  deadlineAt: Date | null;
  image: string;
  nodes: number;
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
  standalone: boolean;
}

/** The order of a lease that was just inserted, with its VMs. */
async function readPricedOrder(tx: Transaction, lease: string): Promise<PricedOrder> {
  const rows = await tx.$queryRaw<LeaseOrderRow[]>`
    SELECT l.kind::text AS kind, l."durationS", l.preemptible, l."startAt", l."deadlineAt", i.name AS image, count(*)::int AS nodes,
      max(v.vcpus) AS vcpus, max(v."memoryMiB") AS "memoryMiB", max(v."diskMiB" + v."overlayMiB") AS "diskMiB",
      bool_or(v."order" IS NOT NULL) AS standalone
    FROM "Lease" l JOIN "Vm" v ON v."leaseId" = l.id JOIN "Image" i ON i.id = v."imageId" WHERE l.id = ${lease} GROUP BY l.id, i.id`;
  const { standalone, durationS, startAt, deadlineAt, preemptible, ...row } = oneOrNotFound(rows, `lease ${lease}`);
  return pricedOrder({
    ...row,
    // A standalone VM is not suspended for others.
    preemptible: preemptible && !standalone,
    startAt: row.kind === 'reservation' ? (startAt?.toISOString() ?? null) : null,
    deadlineAt: deadlineAt?.toISOString() ?? null,
    durationS: durationS === unboundedDurationS ? null : durationS,
  });
}

interface BillRequest {
  owner: string;
  lease: string;
  /** The task or the VM. */
  subject: string;
  /** The quote that the order names. */
  quote: string | undefined;
  /** Of an order that pays by offers. */
  market?: MarketTerms | undefined;
  /** Of the API key. */
  keyId: string;
  nowMs: number;
}

/** By offers, by a quote at its prices and never above its total, else at the prices of now. Throws quote-refused; null: nothing has a price. */
async function findPrices(tx: Transaction, { owner, lease, quote, market, nowMs }: BillRequest, order: PricedOrder) {
  if (market !== undefined) {
    const prices = await takeOffers(tx, { owner, lease, terms: market, nowMs });
    return { ...prices, limits: limitsOf(prices.terms, order), quoteId: null };
  }
  if (quote === undefined) {
    const prices = await findValidPrices(tx, owner, nowMs);
    if (prices === null) return null;
    const terms = termsOf(prices.terms, { image: order.image, kind: priceClassOf(order) });
    return { ...prices, terms, limits: limitsOf(terms, order), quoteId: null };
  }
  const { currency, terms, totalMicros } = await takeQuote(tx, { id: quote, owner, order, nowMs });
  const key = { kind: 'owner' as const, holder: owner, name: '', currency };
  const account = await tx.account.findUnique({ where: { kind_holder_name_currency: key }, select: { id: true } });
  const limits = { ...limitsOf(terms, order), totalMicros };
  return { currency, terms, account: account?.id ?? null, limits, quoteId: quote };
}

/**
 * Opens the bill of a lease that was just accepted, and holds its money: of a fixed start all of it, of best effort an hour. The
 * last statement of the acceptance's transaction, since the owner's account is locked to its end. Does nothing where nothing has
 * a price. Throws insufficient-funds, quote-refused, offer-refused and amount-out-of-bounds.
 */
export async function openBill(tx: Transaction, request: BillRequest): Promise<void> {
  const { owner, lease, subject, keyId, nowMs } = request;
  const order = await readPricedOrder(tx, lease);
  const prices = await findPrices(tx, request, order);
  if (prices === null) return;
  const { currency, account, terms, limits, quoteId } = prices;
  if (account === null)
    throw new BerthError('insufficient-funds', `This owner has no account of ${currency}; an operator opens one`);
  const { totalMicros, holdMicros } = limits;
  boundedAmount(totalMicros ?? holdMicros);
  const dueAt = hasFixedStart(order) ? null : new Date(nowMs + billing.intervalS * 1000);
  await tx.bill.create({
    data: {
      leaseId: lease,
      subjectId: subject,
      ownerId: owner,
      accountId: account,
      currency,
      quoteId,
      terms,
      totalMicros,
      holdMicros,
      dueAt,
      createdAt: new Date(nowMs),
    },
  });
  if (holdMicros === 0n) return;
  const act = { reason: 'held for the lease', keyId, idempotencyKey: `${lease}/hold`, atMs: nowMs };
  await placeHold(
    tx,
    { ownerId: owner, subject: lease, currency },
    { ...act, from: account as AccountId, amountMicros: holdMicros },
  );
}
