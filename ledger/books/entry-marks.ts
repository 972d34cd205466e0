import type { Ledger } from '../client.ts';
import type { Transaction } from '../transaction.ts';

/**
 * Entries have no time of their own, and an order. Once an hour the place of the last one is marked: what was posted in a month lies
 * between the marks around it, and is read without the rest of an account's life.
 */

const intervalMs = 3_600_000;
/** A transfer has the time at which its transaction began, and its entries their places later: at most by this. */
export const settledAfterMs = 60_000;

/** No place is above it. */
const lastPlace = 2n ** 63n - 1n;

/** Entries of an interval are after `after`, and up to `upTo`. Others may be as well. */
export interface EntryPlaces {
  after: bigint;
  upTo: bigint;
}

/** Marks the last place, where the last mark is an hour old. Marks of a time that is not yet, of a clock that was set back, are removed. */
export async function markEntries(ledger: Ledger, nowMs: number): Promise<void> {
  const now = new Date(nowMs);
  await ledger.entryMark.deleteMany({ where: { at: { gt: now } } });
  await ledger.$executeRaw`
    INSERT INTO "EntryMark" (at, seq) SELECT ${now}::timestamptz, CASE WHEN is_called THEN last_value ELSE 0 END FROM "Entry_seq_seq"
    WHERE NOT EXISTS (SELECT FROM "EntryMark" WHERE at > ${new Date(nowMs - intervalMs)}::timestamptz)
    ON CONFLICT DO NOTHING`;
}

/** Between which places the entries of an interval are: as near as there are marks. */
export async function findPlaces(
  tx: Transaction,
  { fromMs, untilMs }: { fromMs: number; untilMs: number },
): Promise<EntryPlaces> {
  const [before, behind] = [new Date(fromMs - settledAfterMs), new Date(untilMs + settledAfterMs)];
  const rows = await tx.$queryRaw<EntryPlaces[]>`
    SELECT COALESCE((SELECT seq FROM "EntryMark" WHERE at <= ${before}::timestamptz ORDER BY at DESC LIMIT 1), 0) AS after,
      COALESCE((SELECT seq FROM "EntryMark" WHERE at >= ${behind}::timestamptz ORDER BY at LIMIT 1), ${lastPlace}) AS "upTo"`;
  return rows[0]!;
}
