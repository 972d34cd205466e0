import type { Ledger } from './client.ts';

/** The database's clock, which all processes of a site share: usage and its events are on it. */
export interface LedgerClock {
  /** Milliseconds since 1970. */
  nowMs: () => number;
  /** Compares this machine's clock with the database's again. A failure leaves the last comparison in force. */
  compare: () => Promise<void>;
}

/** Of several comparisons the quickest is the most exact. */
const comparisons = 3;

/** Compares this machine's clock with the database's. @param localMs milliseconds since 1970 by this machine */
export async function openLedgerClock(ledger: Ledger, localMs: () => number = Date.now): Promise<LedgerClock> {
  let offsetMs = 0;
  const compare = async (): Promise<void> => {
    let quickestMs = Number.POSITIVE_INFINITY;
    for (let count = 0; count < comparisons; count += 1) {
      const beforeMs = localMs();
      const rows = await ledger.$queryRaw<{ ms: number }[]>`
        SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::float8 AS ms`;
      const afterMs = localMs();
      if (rows[0] === undefined || afterMs - beforeMs >= quickestMs) continue;
      quickestMs = afterMs - beforeMs;
      offsetMs = rows[0].ms - (beforeMs + afterMs) / 2;
    }
  };
  await compare();
  return { nowMs: () => Math.round(localMs() + offsetMs), compare };
}

/**
 * A time that a workflow reports, by the ledger's clock: `reportedAt`, by the workflow's clock, and `now` are one moment.
 * Without it the two clocks are taken to be one.
 */
export function byLedgerClock(time: string | null, reportedAt: string | undefined, now: string): string | null {
  if (time === null || reportedAt === undefined) return time;
  return new Date(Date.parse(time) + Date.parse(now) - Date.parse(reportedAt)).toISOString();
}
