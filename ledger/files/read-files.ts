import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import { type FileRecord, requireDigest } from './file-record.ts';

/** @param owner whose file; null: any owner's. Throws not-found, also for one that is not ready. */
export async function findFile(ledger: Ledger, owner: string | null, id: string): Promise<FileRecord> {
  const row = await ledger.file.findFirst({ where: { id, state: 'ready', ...(owner !== null && { ownerId: owner }) } });
  if (!row) throw new BerthError('not-found', `There is no file ${id}`);
  return requireDigest(row);
}

/** A file of an owner; null when there is none, or it is not ready. */
export async function findOwnFile(ledger: Ledger, owner: string, id: string): Promise<FileRecord | null> {
  const row = await ledger.file.findFirst({ where: { id, ownerId: owner, state: 'ready' } });
  return row === null ? null : requireDigest(row);
}

/** @param owner whose files; null: every owner's */
export async function readFiles(ledger: Ledger, owner: string | null, page: PageRequest): Promise<FileRecord[]> {
  const rows = await ledger.file.findMany(pageQuery(page, { state: 'ready' as const, ownerId: owner ?? undefined }));
  return rows.map(requireDigest);
}
