import type { Ledger } from '../client.ts';

/** Entries of all owners, for metrics. */
export interface EntryCounts {
  /** Those in the trash included. */
  entries: number;
  trash: number;
  overdueS: number;
}

export async function readEntryCounts(ledger: Ledger, nowMs: number): Promise<EntryCounts> {
  const [counts] = await ledger.$queryRaw<EntryCounts[]>`
    SELECT (SELECT COALESCE(sum("usedEntries"), 0) FROM "Owner")::float8 AS entries,
      (SELECT COALESCE(sum(rows), 0) FROM "Deletion")::float8 AS trash,
      (SELECT COALESCE(GREATEST(0, EXTRACT(EPOCH FROM ${new Date(nowMs)}::timestamptz - min("purgeAt"))), 0) FROM "Deletion")::float8 AS "overdueS"`;
  return counts ?? { entries: 0, trash: 0, overdueS: 0 };
}
