import { BerthError } from '../../model/errors.ts';

/** A file that is ready. */
export interface FileRecord {
  id: string;
  ownerId: string;
  name: string;
  sizeBytes: bigint;
  sha256: string;
  createdAt: Date;
}

export function requireDigest<T extends { id: string; sha256: string | null }>(row: T): T & { sha256: string } {
  const { sha256 } = row;
  if (sha256 === null) throw new BerthError('internal', `BUG: the file ${row.id} is ready and has no digest`);
  return { ...row, sha256 };
}
