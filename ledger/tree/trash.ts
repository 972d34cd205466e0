import { type Deletion, type DeletionReason, Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { subtree, type TreeSite } from './entry-record.ts';
import { lockTree, refuseTooManyRows } from './lock-tree.ts';
import { type EntryTarget, onEntry } from './on-entry.ts';
import { deleteUnnamed, type RemovedContent } from './unnamed-files.ts';

/** What one act took out of a tree, with the bytes of its files. */
export interface DeletionRecord {
  id: string;
  path: string;
  reason: DeletionReason;
  entries: number;
  sizeBytes: number;
  purgeAt: Date;
  createdAt: Date;
}

const dayMs = 24 * 3_600_000;

/** Moves an entry and all in it into the trash. The caller has the lock of the tree. Throws conflict for too many. */
export async function moveToTrash(
  tx: Transaction,
  owner: string,
  { path, reason }: { path: string; reason: DeletionReason },
  { nowMs, trashDays }: TreeSite,
): Promise<string> {
  const id = newId('deletion');
  const data = {
    id,
    ownerId: owner,
    path,
    reason,
    rows: 0,
    purgeAt: new Date(nowMs + trashDays * dayMs),
    createdAt: new Date(nowMs),
  };
  await tx.deletion.create({ data });
  const rows = await tx.$executeRaw(Prisma.sql`
    WITH gone AS (DELETE FROM "TreeEntry" WHERE ${subtree(owner, path)} RETURNING *)
    INSERT INTO "TrashEntry" ("deletionId", "ownerId", path, "fileId", metadata, "expiresAt", "createdAt", "modifiedAt")
    SELECT ${id}, "ownerId", path, "fileId", metadata, "expiresAt", "createdAt", "modifiedAt" FROM gone`);
  refuseTooManyRows(rows, path);
  await tx.deletion.update({ where: { id }, data: { rows } });
  return id;
}

/** Deletes a deletion for good. Returns what was deleted of the repository. */
export async function purge(tx: Transaction, owner: string, id: string, nowMs: number): Promise<RemovedContent[]> {
  const gone = await tx.$queryRaw<{ fileId: string | null }[]>`
    DELETE FROM "TrashEntry" WHERE "deletionId" = ${id} AND "ownerId" = ${owner} RETURNING "fileId"`;
  await tx.deletion.deleteMany({ where: { id, ownerId: owner } });
  const fileIds = gone.map(({ fileId }) => fileId).filter((fileId) => fileId !== null);
  return deleteUnnamed(tx, owner, fileIds, nowMs);
}

/** Where a site keeps nothing, what was replaced or deleted is gone at once. */
export async function purgeUnkept(tx: Transaction, owner: string, id: string, site: TreeSite): Promise<RemovedContent[]> {
  return site.trashDays > 0 ? [] : purge(tx, owner, id, site.nowMs);
}

export interface EntryDeletion extends EntryTarget {
  /** With all in it; otherwise a folder has to be empty. */
  recursive: boolean;
  purge: boolean;
}

/** Deletes an entry. `deletion` is null where it is gone for good. Throws not-found, precondition-failed, conflict. */
export async function changeEntryDeleted(
  ledger: Ledger,
  { recursive, purge: forGood, ...target }: EntryDeletion,
  site: TreeSite,
): Promise<{ deletion: string | null; removed: RemovedContent[] }> {
  const { owner, path } = target;
  return onEntry(ledger, target, async (tx) => {
    if (
      !recursive &&
      (await tx.treeEntry.findFirst({ where: { ownerId: owner, parent: path }, select: { path: true } })) !== null
    )
      throw new BerthError('conflict', `The folder ${path} is not empty; delete it with recursive=1`);
    const id = await moveToTrash(tx, owner, { path, reason: 'deleted' }, site);
    if (!forGood && site.trashDays > 0) return { deletion: id, removed: [] };
    return { deletion: null, removed: await purge(tx, owner, id, site.nowMs) };
  });
}

const noDeletion = (id: string): BerthError => new BerthError('not-found', `There is no deletion ${id} in the trash`);

/** Throws not-found. */
export async function requireDeletion(tx: Transaction, owner: string, id: string): Promise<Deletion> {
  const row = await tx.deletion.findFirst({ where: { id, ownerId: owner } });
  if (row === null) throw noDeletion(id);
  return row;
}

/** Deletes what is in the trash for good. Throws not-found. */
export async function changeDeletionPurged(ledger: Ledger, owner: string, id: string, nowMs: number): Promise<RemovedContent[]> {
  return inTransaction(
    ledger,
    async (tx) => {
      await lockTree(tx, owner);
      await requireDeletion(tx, owner, id);
      return purge(tx, owner, id, nowMs);
    },
    requestLimits,
  );
}

async function withBytes(tx: Transaction, rows: Deletion[]): Promise<DeletionRecord[]> {
  const ids = rows.map(({ id }) => id);
  const sums = await tx.$queryRaw<{ id: string; bytes: bigint }[]>`
    SELECT t."deletionId" AS id, sum(f."sizeBytes")::bigint AS bytes FROM "TrashEntry" t JOIN "File" f ON f.id = t."fileId"
    WHERE t."deletionId" = ANY(${ids}) GROUP BY 1`;
  const bytesOf = new Map(sums.map(({ id, bytes }) => [id, Number(bytes)]));
  return rows.map(({ id, path, reason, rows: entries, purgeAt, createdAt }) => ({
    id,
    path,
    reason,
    entries,
    sizeBytes: bytesOf.get(id) ?? 0,
    purgeAt,
    createdAt,
  }));
}

/** What is in an owner's trash, newest first. @param path of this path alone; undefined: of any */
export async function readDeletions(
  ledger: Ledger,
  owner: string,
  path: string | undefined,
  page: PageRequest,
): Promise<DeletionRecord[]> {
  return withBytes(ledger, await ledger.deletion.findMany(pageQuery(page, { ownerId: owner, path })));
}

/** One of them. Throws not-found. */
export async function findDeletion(ledger: Ledger, owner: string, id: string): Promise<DeletionRecord> {
  const [found] = await withBytes(ledger, [await requireDeletion(ledger, owner, id)]);
  if (found === undefined) throw noDeletion(id);
  return found;
}
