import { BerthError } from '../../model/errors.ts';
import type { AcceptedMarket, MarketTerms } from '../../model/market/offer.ts';
import type { PriceTerms } from '../../model/money/price-terms.ts';
import { type MarketMatch, type MatchedOffer, matchOffers } from '../../scheduler/market/match.ts';
import { findValidPrices } from '../market/price-books.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';
import { readOffers } from './offers.ts';

/** With which prices a lease is billed, and by which account. */
export interface OfferedPrices {
  currency: string;
  terms: PriceTerms;
  /** null: the owner has none of the currency. */
  account: string | null;
}

interface MarketRequest {
  owner: string;
  lease: string;
  terms: MarketTerms;
  nowMs: number;
}

interface LeaseSize {
  kind: string;
  fixed: boolean;
  nodes: number;
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
}

export async function readLeaseSize(tx: Transaction, lease: string): Promise<LeaseSize> {
  const rows = await tx.$queryRaw<LeaseSize[]>`
    SELECT l.kind::text AS kind, l."startAt" IS NOT NULL AS fixed, count(*)::int AS nodes, max(v.vcpus) AS vcpus,
      max(v."memoryMiB") AS "memoryMiB", max(v."diskMiB" + v."overlayMiB") AS "diskMiB"
    FROM "Lease" l JOIN "Vm" v ON v."leaseId" = l.id WHERE l.id = ${lease} GROUP BY l.id`;
  return oneOrNotFound(rows, `lease ${lease}`);
}

/** The owner's oldest account of the currency, or of any; null: it has none. */
async function findPayer(tx: Transaction, owner: string, currency: string | undefined) {
  return tx.account.findFirst({
    where: { kind: 'owner', holder: owner, name: '', ...(currency !== undefined && { currency }) },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    select: { id: true, currency: true },
  });
}

/** What the order could not take, in few words: by filter how many. */
function reasons({ refused }: MarketMatch): string {
  const counts = Map.groupBy(refused, ({ filter }) => filter);
  return [...counts].map(([filter, offers]) => `${offers.length} by ${filter}`).join(', ');
}

const ruleOf = ({ offer: { provider, rates } }: MatchedOffer) => ({ provider, ...rates });

/** Where it is moved to a host of none of them, by an operator or a drain, it pays no more than the dearest of them. */
export function termsOfOffers(
  matched: readonly MatchedOffer[],
  { feeMillionths, taxMillionths, refundMillionths }: Omit<PriceTerms, 'rules'>,
): PriceTerms {
  return {
    rules: [...matched.map(ruleOf), matched.at(-1)!.offer.rates],
    feeMillionths,
    taxMillionths,
    refundMillionths,
  };
}

/** What of a site's prices holds for offers as well. */
const shares = { feeMillionths: 0, taxMillionths: 0, refundMillionths: 1_000_000 };

/**
 * Finds the offers that a lease which was just accepted may use, and writes them to its row: placement takes the cheapest that has
 * room. Throws offer-refused where there is none, and bad-request for a lease with a fixed start, whose hosts are promised before.
 */
export async function takeOffers(tx: Transaction, { owner, lease, terms, nowMs }: MarketRequest): Promise<OfferedPrices> {
  const size = await readLeaseSize(tx, lease);
  if (size.kind !== 'bestEffort' || size.fixed)
    throw new BerthError('bad-request', 'Offers are for best effort without a deadline', {
      fields: [{ pointer: '/market', detail: 'expected none for a lease with a fixed start' }],
    });
  const payer = await findPayer(tx, owner, terms.currency);
  const currency = terms.currency ?? payer?.currency;
  if (currency === undefined) throw new BerthError('insufficient-funds', 'This owner has no account; an operator opens one');
  const found = matchOffers(await readOffers(tx, nowMs), { ...size, currency }, terms);
  if (found.matched.length === 0)
    throw new BerthError(
      'offer-refused',
      `Of ${found.refused.length} offers none is for this order${found.refused.length === 0 ? '' : `: ${reasons(found)}`}. See GET /v1/offers`,
    );
  const offers = found.matched.map(({ offer, hourMicros }) => ({ offer: offer.id, provider: offer.provider, hourMicros }));
  const market: AcceptedMarket = { terms, offers };
  await tx.lease.update({ where: { id: lease }, data: { market } });
  const site = (await findValidPrices(tx, owner, nowMs))?.terms ?? shares;
  return { currency, terms: termsOfOffers(found.matched, site), account: payer?.id ?? null };
}
