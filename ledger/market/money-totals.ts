import { servicePartsPerMicro } from '../../model/money/services.ts';
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

/** What the site may not get, of one currency; in micro-units, as floating point. */
export interface MoneyAtRisk {
  currency: string;
  /** By how much accounts of owners are below zero. */
  credit: number;
  /** What the holds of leases that go on lack of what they should have. */
  unheld: number;
  /** What no account had of their charges, and of those for files and ports. */
  uncollected: number;
}

export async function readMoneyAtRisk(ledger: Ledger): Promise<MoneyAtRisk[]> {
  return ledger.$queryRaw<MoneyAtRisk[]>`
    SELECT currency, sum(credit)::float8 AS credit, sum(unheld)::float8 AS unheld, sum(uncollected)::float8 AS uncollected
    FROM (SELECT currency, -balance AS credit, 0 AS unheld, 0 AS uncollected FROM "Account" WHERE kind = 'owner' AND balance < 0
      UNION ALL SELECT b.currency, 0, CASE WHEN b."dueAt" IS NULL THEN 0 ELSE GREATEST(0, b."holdMicros" - COALESCE(h.balance, 0)) END,
        b."uncollectedMicros" FROM "Bill" b ${joinHold} WHERE b."endedAt" IS NULL
      UNION ALL SELECT currency, 0, 0, "dueParts" / ${String(servicePartsPerMicro)}::numeric FROM "OwnerCharge" WHERE "unpaidSince" IS NOT NULL) m
    GROUP BY currency ORDER BY currency`;
}
