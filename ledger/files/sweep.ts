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

/** A file's bytes as the repository names them: <fileId>-<sha256>. */
export const bytesName = (fileId: string, sha256: string): string => `${fileId}-${sha256}`;

/** Which of these bytes a row of these files named once and none does any more, by their names. */
export async function readRemovedBytes(ledger: Ledger, fileIds: string[]): Promise<Set<string>> {
  const rows = await ledger.fileRemoval.findMany({ where: { fileId: { in: fileIds } }, select: { fileId: true, sha256: true } });
  return new Set(rows.map(({ fileId, sha256 }) => bytesName(fileId, sha256)));
}

/** Forgets removals from before this time: the sweep has been there since. */
export async function sweepRemovals(ledger: Ledger, before: Date): Promise<void> {
  await ledger.fileRemoval.deleteMany({ where: { removedAt: { lt: before } } });
}

/** The digest of each of these files that has a row; null for an upload that may be about to commit. */
export async function readFileDigests(ledger: Ledger, ids: string[]): Promise<Map<string, string | null>> {
  const rows = await ledger.file.findMany({ where: { id: { in: ids } }, select: { id: true, sha256: true } });
  return new Map(rows.map(({ id, sha256 }) => [id, sha256]));
}

/**
 * Whose logs these are: of tasks, and of builds, which have them under the id of their VM. `expired`: it has ended before this
 * time. Ids that the ledger does not know are not in the result.
 */
export async function readLogHolders(ledger: Ledger, ids: string[], endedSince: Date): Promise<Map<string, 'kept' | 'expired'>> {
  const rows = await ledger.$queryRaw<{ id: string; kept: boolean }[]>`
    SELECT id, "finishedAt" IS NULL OR "finishedAt" >= ${endedSince} AS kept FROM "Task" WHERE id = ANY(${ids})
    UNION ALL
    SELECT v.id, v.state <> 'removed' OR COALESCE(i."finishedAt", v."endedAt", v."createdAt") >= ${endedSince}
    FROM "Vm" v LEFT JOIN "Image" i ON i."buildVmId" = v.id WHERE v.id = ANY(${ids})`;
  return new Map(rows.map(({ id, kept }) => [id, kept ? 'kept' : 'expired']));
}
