import { BerthError } from '../../model/errors.ts';
import { afterPrefix, isInTaskFolder, taskFolder } from '../../model/tree/path.ts';
import type { Ledger } from '../client.ts';
import type { Transaction } from '../transaction.ts';
import { type EntryRecord, entryOf, type PathPage, withFile } from './entry-record.ts';
import { findTaskEntry, readTaskFolder, readTaskPrefix } from './task-outputs.ts';

/** A row of the tree; null: there is none. */
export async function findRow(tx: Transaction, owner: string, path: string): Promise<EntryRecord | null> {
  const row = await tx.treeEntry.findUnique({ where: { ownerId_path: { ownerId: owner, path } }, include: withFile });
  return row === null ? null : entryOf(row);
}

export const noEntry = (path: string): BerthError => new BerthError('not-found', `There is nothing at the path ${path}`);

/** An entry of an owner's tree, or an output of its tasks; null: there is none. */
export async function findEntryOrNull(ledger: Ledger, owner: string, path: string): Promise<EntryRecord | null> {
  return isInTaskFolder(path) ? findTaskEntry(ledger, owner, path) : findRow(ledger, owner, path);
}

/** The same; throws not-found. */
export async function findEntry(ledger: Ledger, owner: string, path: string): Promise<EntryRecord> {
  const entry = await findEntryOrNull(ledger, owner, path);
  if (entry === null) throw noEntry(path);
  return entry;
}

async function readRoot(ledger: Ledger, owner: string, page: PathPage): Promise<EntryRecord[]> {
  const rows = await readRows(ledger, { ownerId: owner, parent: null }, page);
  if (page.after !== null && page.after >= taskFolder) return rows;
  const tasks = await findTaskEntry(ledger, owner, taskFolder);
  // By their bytes, as PostgreSQL sorts them.
  return [...rows, ...(tasks === null ? [] : [tasks])]
    .sort((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)))
    .slice(0, page.limit);
}

async function readRows(
  ledger: Ledger,
  where: { ownerId: string; parent?: string | null; AND?: { path: { gte?: string; lt?: string } }[] },
  { after, limit }: PathPage,
): Promise<EntryRecord[]> {
  const rows = await ledger.treeEntry.findMany({
    where: { ...where, path: { gt: after ?? '' } },
    include: withFile,
    orderBy: { path: 'asc' },
    take: limit,
  });
  return rows.map(entryOf);
}

/** What lies in a folder, by path. Throws not-found, and conflict for what is no folder. @param folder null: the root */
export async function readFolder(ledger: Ledger, owner: string, folder: string | null, page: PathPage): Promise<EntryRecord[]> {
  if (folder === null) return readRoot(ledger, owner, page);
  const { file } = await findEntry(ledger, owner, folder);
  if (file !== null) throw new BerthError('conflict', `The path ${folder} is that of a file`);
  return isInTaskFolder(folder)
    ? readTaskFolder(ledger, owner, folder, page)
    : readRows(ledger, { ownerId: owner, parent: folder }, page);
}

/** Every entry whose path begins with a text, by path. Outputs of tasks where it begins with `tasks/` and names the task. */
export async function readPrefix(ledger: Ledger, owner: string, prefix: string, page: PathPage): Promise<EntryRecord[]> {
  if (prefix.startsWith(`${taskFolder}/`)) return readTaskPrefix(ledger, owner, prefix, page);
  const end = afterPrefix(prefix);
  const range = [{ path: { gte: prefix } }, ...(end === null ? [] : [{ path: { lt: end } }])];
  return readRows(ledger, { ownerId: owner, AND: range }, page);
}

const archivePage = 500;

/** All in a folder, by path; pages are read as they are taken. */
export async function* readInside(ledger: Ledger, owner: string, folder: string): AsyncIterable<EntryRecord> {
  for (let after: string | null = null; ; ) {
    const page = await readPrefix(ledger, owner, `${folder}/`, { after, limit: archivePage });
    yield* page;
    after = page.at(-1)?.path ?? null;
    if (page.length < archivePage) return;
  }
}
