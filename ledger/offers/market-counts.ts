import type { Ledger } from '../client.ts';

/** For gauges. */
export interface MarketCount {
  of: 'offers' | 'orders';
  /** Of an offer its currency; of an order that pays by offers, and is not over, `waiting` or `placed`. */
  name: string;
  count: number;
}

/** Offers that hold now, and orders that pay by them. */
export async function readMarketCounts(ledger: Ledger, nowMs: number): Promise<MarketCount[]> {
  const now = new Date(nowMs);
  return ledger.$queryRaw<MarketCount[]>`
    SELECT 'offers' AS of, currency AS name, count(*)::int AS count
    FROM (SELECT DISTINCT ON (provider, currency) currency, "validUntil" FROM "Offer" WHERE "validFrom" <= ${now}::timestamptz
      ORDER BY provider, currency, "validFrom" DESC, id DESC) o
    WHERE "validUntil" IS NULL OR "validUntil" > ${now}::timestamptz GROUP BY currency
    UNION ALL SELECT 'orders', CASE WHEN "startedAt" IS NULL THEN 'waiting' ELSE 'placed' END, count(*)::int
    FROM "Lease" WHERE market IS NOT NULL AND "endedAt" IS NULL GROUP BY 2`;
}
