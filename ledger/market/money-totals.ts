import type { Ledger } from '../client.ts';
import { joinHold } from './read-bills.ts';

/** Money of the leases that are not over, of one currency and state. */
export interface MoneyTotals {
  currency: string;
  state: 'paid' | 'warned' | 'suspended';
  bills: number;
  /** In micro-units; as floating point, for gauges. */
  held: number;
  uncollected: number;
  /** Seconds since the oldest of them was to be charged. */
  overdueS: number;
}

export async function readMoneyTotals(ledger: Ledger): Promise<MoneyTotals[]> {
  return ledger.$queryRaw<MoneyTotals[]>`
    SELECT b.currency, CASE WHEN b."suspendedAt" IS NOT NULL THEN 'suspended' WHEN b."warnedAt" IS NOT NULL THEN 'warned' ELSE 'paid' END AS state,
      count(*)::int AS bills, COALESCE(sum(h.balance), 0)::float8 AS held, sum(b."uncollectedMicros")::float8 AS uncollected,
      COALESCE(max(GREATEST(0, EXTRACT(EPOCH FROM now() - b."dueAt"))), 0)::float8 AS "overdueS"
    FROM "Bill" b ${joinHold}
    WHERE b."endedAt" IS NULL GROUP BY 1, 2 ORDER BY 1, 2`;
}
