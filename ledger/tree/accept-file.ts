import { BerthError } from '../../model/errors.ts';
import { type ContentCondition, refuseUnmet } from '../../model/tree/condition.ts';
import { folderOf } from '../../model/tree/path.ts';
import type { Ledger } from '../client.ts';
import { commitFile, type QuotaClaim, type ReceivedContent } from '../files/uploads.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { digestOf, type EntryMetadata, type EntryRecord, type TreeSite } from './entry-record.ts';
import { ensureFolders, lockTree, refuseOverEntries, refuseTaskPath } from './lock-tree.ts';
import { findRow } from './read-tree.ts';
import { moveToTrash, purgeUnkept } from './trash.ts';
import type { RemovedContent } from './unnamed-files.ts';

/** A file that is to have a path. */
export interface EntryPut {
  owner: string;
  path: string;
  condition: ContentCondition;
  metadata: EntryMetadata;
  expiresAt: Date | null;
}

export interface StoredEntry {
  entry: EntryRecord;
  /** Whether the path was free. */
  created: boolean;
  removed: RemovedContent[];
}

/** Throws what a PUT would be refused with whatever its bytes are: before they are received, and under the lock. */
export function refusePut({ path, condition }: Pick<EntryPut, 'path' | 'condition'>, existing: EntryRecord | null): void {
  refuseTaskPath(path);
  refuseUnmet(condition, digestOf(existing));
  if (existing !== null && existing.file === null) throw new BerthError('conflict', `The path ${path} is that of a folder`);
}

/** The same for a request whose body has not been read. */
export async function readPutRefusal(ledger: Ledger, put: Pick<EntryPut, 'owner' | 'path' | 'condition'>): Promise<void> {
  refusePut(put, await findRow(ledger, put.owner, put.path));
}

/** Gives a file a path: what was there goes into the trash. The caller has the lock, and has refused what is no file. */
export async function givePath(
  tx: Transaction,
  { owner, path, metadata, expiresAt }: Omit<EntryPut, 'condition'>,
  fileId: string,
  existing: EntryRecord | null,
  site: TreeSite,
): Promise<RemovedContent[]> {
  const now = new Date(site.nowMs);
  const removed =
    existing === null ? [] : await purgeUnkept(tx, owner, await moveToTrash(tx, owner, { path, reason: 'replaced' }, site), site);
  await ensureFolders(tx, owner, path, site.nowMs);
  await tx.treeEntry.create({
    data: {
      ownerId: owner,
      path,
      parent: folderOf(path),
      fileId,
      metadata,
      expiresAt,
      createdAt: existing?.createdAt ?? now,
      modifiedAt: now,
    },
  });
  await refuseOverEntries(tx, owner, site.maxEntries);
  return removed;
}

/** The row that this transaction has written. */
export async function writtenRow(tx: Transaction, owner: string, path: string): Promise<EntryRecord> {
  const entry = await findRow(tx, owner, path);
  if (entry === null) throw new BerthError('internal', `BUG: the entry ${path} was written and is not there`);
  return entry;
}

/** Makes received bytes the file of a path. The same bytes again change only what the entry says of them. */
export async function acceptEntryFile(
  ledger: Ledger,
  put: EntryPut,
  { claim, content }: { claim: QuotaClaim; content: ReceivedContent },
  site: TreeSite,
): Promise<StoredEntry> {
  const { owner, path, metadata, expiresAt } = put;
  return inTransaction(
    ledger,
    async (tx) => {
      await lockTree(tx, owner);
      const existing = await findRow(tx, owner, path);
      refusePut(put, existing);
      if (existing?.file?.sha256 === content.sha256) {
        const data = { metadata, expiresAt, modifiedAt: new Date(site.nowMs) };
        await tx.treeEntry.update({ where: { ownerId_path: { ownerId: owner, path } }, data });
        return { entry: await writtenRow(tx, owner, path), created: false, removed: [] };
      }
      const file = await commitFile(tx, claim, content, { ofTree: true });
      const removed = await givePath(tx, put, file.id, existing, site);
      return { entry: await writtenRow(tx, owner, path), created: existing === null, removed };
    },
    requestLimits,
  );
}
