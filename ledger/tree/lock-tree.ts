import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { folderOf, foldersOf, isInTaskFolder, treePathBytes, treePathNames, treeStepEntries } from '../../model/tree/path.ts';
import { lockOwner } from '../owners/lock-owner.ts';
import type { Transaction } from '../transaction.ts';
import { subtree } from './entry-record.ts';

/**
 * Serializes changes of an owner's tree to the end of the transaction. Taken before any row is locked, so that no two of them
 * wait for each other.
 */
export const lockTree = (tx: Transaction, owner: string): Promise<void> => lockOwner(tx, 'tree', owner);

/** Throws conflict for a path that only tasks write. */
export function refuseTaskPath(path: string): void {
  if (isInTaskFolder(path))
    throw new BerthError('conflict', `The path ${path} is among the outputs of tasks, which are not changed there`);
}

/** Makes the folders in which a path lies, where they do not exist. What is a file stays one, and refuses what is put into it. */
export async function ensureFolders(tx: Transaction, owner: string, path: string, nowMs: number): Promise<void> {
  const folders = foldersOf(path);
  if (folders.length === 0) return;
  const now = new Date(nowMs);
  await tx.treeEntry.createMany({
    data: folders.map((folder) => ({ ownerId: owner, path: folder, parent: folderOf(folder), createdAt: now, modifiedAt: now })),
    skipDuplicates: true,
  });
}

/** How many entries a path has, and whether all of them can have their paths below another one; throws otherwise. */
export async function measureSubtree(tx: Transaction, owner: string, path: string, to: string): Promise<number> {
  const [found] = await tx.$queryRaw<{ rows: number; bytes: number; names: number }[]>(Prisma.sql`
    SELECT count(*)::int AS rows, COALESCE(max(octet_length(path)), 0)::int AS bytes,
      COALESCE(max(length(path) - length(replace(path, '/', ''))), 0)::int AS names
    FROM (SELECT path FROM "TreeEntry" WHERE ${subtree(owner, path)} LIMIT ${treeStepEntries + 1}) s`);
  const { rows, bytes, names } = found ?? { rows: 0, bytes: 0, names: 0 };
  refuseTooManyRows(rows, path);
  const slashesOf = (text: string): number => text.split('/').length - 1;
  refuseTooLong(to, bytes + Buffer.byteLength(to) - Buffer.byteLength(path), names + 1 + slashesOf(to) - slashesOf(path));
  return rows;
}

export function refuseTooManyRows(rows: number, path: string): void {
  if (rows > treeStepEntries)
    throw new BerthError(
      'conflict',
      `The folder ${path} has more than ${treeStepEntries} entries; take the folders in it one by one`,
    );
}

export function refuseTooLong(to: string, bytes: number, names: number): void {
  if (bytes > treePathBytes || names > treePathNames)
    throw new BerthError(
      'bad-request',
      `Below ${to} a path would have ${bytes} bytes and ${names} names, of at most ${treePathBytes} and ${treePathNames}`,
    );
}

/** Last in a transaction that added entries: the owner's row, which a trigger keeps, is locked until its end. */
export async function refuseOverEntries(tx: Transaction, owner: string, siteLimit: number): Promise<void> {
  const { usedEntries, maxEntries } = await tx.owner.findUniqueOrThrow({
    where: { id: owner },
    select: { usedEntries: true, maxEntries: true },
  });
  const limit = maxEntries ?? siteLimit;
  if (usedEntries <= limit) return;
  throw new BerthError(
    'quota-exceeded',
    `This owner's tree and trash would have ${usedEntries} entries, of at most ${limit}; delete some with purge, or ask the operator for more`,
    { extra: { quota: 'entries', limit, wanted: usedEntries } },
  );
}
