import type { Ledger } from '../client.ts';

/**
 * Removes claims of uploads that have ended without a file; returns how many.
 * @param createdBefore younger claims remain
 * @param active ids of files that bytes still arrive for
 */
export async function sweepUploads(ledger: Ledger, createdBefore: Date, active: Iterable<string>): Promise<number> {
  const { count } = await ledger.file.deleteMany({
    where: { state: 'uploading', createdAt: { lt: createdBefore }, id: { notIn: [...active] } },
  });
  return count;
}

/** The digest of each of these files that has a row; null for an upload that may be about to commit. */
export async function readFileDigests(ledger: Ledger, ids: string[]): Promise<Map<string, string | null>> {
  const rows = await ledger.file.findMany({ where: { id: { in: ids } }, select: { id: true, sha256: true } });
  return new Map(rows.map(({ id, sha256 }) => [id, sha256]));
}

/** Which of these tasks have not ended, or have ended at this time or later. */
export async function readTasksKeepingLogs(ledger: Ledger, ids: string[], endedSince: Date): Promise<Set<string>> {
  const rows = await ledger.task.findMany({
    where: { id: { in: ids }, OR: [{ finishedAt: null }, { finishedAt: { gte: endedSince } }] },
    select: { id: true },
  });
  return new Set(rows.map(({ id }) => id));
}
