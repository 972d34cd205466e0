import { Prisma } from '../../generated/prisma/client.ts';
import type { Transaction } from '../transaction.ts';

export interface StoredFile {
  sha256: string;
  sizeBytes: number;
}

/**
 * Locks these files of the owner against deletion until the transaction's end: a deletion (delete-file.ts) waits, and
 * then sees the row that names the file. Returns each one that exists and is ready, by its id.
 */
export async function lockFiles(tx: Transaction, owner: string, ids: readonly string[]): Promise<Map<string, StoredFile>> {
  if (ids.length === 0) return new Map();
  // In the order of their ids, so that two transactions cannot wait for each other.
  const rows = await tx.$queryRaw<{ id: string; sha256: string; sizeBytes: bigint }[]>`
    SELECT id, sha256, "sizeBytes" FROM "File" WHERE id IN (${Prisma.join(ids)}) AND "ownerId" = ${owner} AND state = 'ready'
    ORDER BY id FOR SHARE`;
  return new Map(rows.map(({ id, sha256, sizeBytes }) => [id, { sha256, sizeBytes: Number(sizeBytes) }]));
}
