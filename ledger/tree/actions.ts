import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { terminalTaskStates } from '../../model/states.ts';
import { folderOf, isInTaskFolder } from '../../model/tree/path.ts';
import type { Ledger } from '../client.ts';
import { lockFiles } from '../files/lock-files.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import type { Transaction } from '../transaction.ts';
import { givePath, writtenRow } from './accept-file.ts';
import { copyOutputs } from './copy-outputs.ts';
import { type EntryRecord, subtree, type TreeSite } from './entry-record.ts';
import { ensureFolders, lockTree, measureSubtree, refuseOverEntries, refuseTaskPath } from './lock-tree.ts';
import { findRow, noEntry } from './read-tree.ts';
import { moveToTrash, purgeUnkept, requireDeletion } from './trash.ts';
import type { RemovedContent } from './unnamed-files.ts';

/** What a client asks of its tree, besides the bytes of files. */
export type TreeAction =
  | { action: 'folder'; path: string }
  | { action: 'copy' | 'move'; from: string; to: string; replace: boolean }
  | { action: 'link'; file: string; to: string; replace: boolean }
  | { action: 'restore'; deletion: string; to: string | null; replace: boolean };

interface Acting {
  tx: Transaction;
  owner: string;
  site: TreeSite;
  /** Collects what of the repository is nobody's any more, where the site keeps no trash. */
  removed: RemovedContent[];
}

/** Takes away what is at a path, where a file is to replace a file; throws conflict otherwise. */
async function makeWay({ tx, owner, site, removed }: Acting, to: string, replace: boolean, isFile: boolean): Promise<void> {
  refuseTaskPath(to);
  const existing = await findRow(tx, owner, to);
  if (existing === null) return;
  if (!replace) throw new BerthError('conflict', `There is something at the path ${to} already`);
  if (existing.file === null || !isFile) throw new BerthError('conflict', `Only a file replaces a file; see what is at ${to}`);
  removed.push(...(await purgeUnkept(tx, owner, await moveToTrash(tx, owner, { path: to, reason: 'replaced' }, site), site)));
}

async function makeFolder({ tx, owner, site }: Acting, path: string): Promise<string> {
  refuseTaskPath(path);
  if ((await findRow(tx, owner, path))?.file) throw new BerthError('conflict', `The path ${path} is that of a file`);
  // Those that a path in it would lie in.
  await ensureFolders(tx, owner, `${path}/x`, site.nowMs);
  return path;
}

/** The path and the folder of each row of a subtree, when its topmost entry has another path. */
function rebased(from: string, to: string): { path: Prisma.Sql; parent: Prisma.Sql } {
  const of = (column: Prisma.Sql) => Prisma.sql`${to}::text || substr(${column}, length(${from}::text) + 1)`;
  return {
    path: of(Prisma.sql`path`),
    parent: Prisma.sql`CASE WHEN path = ${from} THEN ${folderOf(to)}::text ELSE ${of(Prisma.sql`parent`)} END`,
  };
}

type Transfer = Extract<TreeAction, { action: 'copy' | 'move' }>;

async function transfer(acting: Acting, { action, from, to, replace }: Transfer): Promise<string> {
  const { tx, owner, site } = acting;
  if (to === from || to.startsWith(`${from}/`)) throw new BerthError('conflict', `The path ${to} is ${from} itself, or in it`);
  if (from.startsWith(`${to}/`)) throw new BerthError('conflict', `The path ${from} is in ${to}`);
  if (isInTaskFolder(from)) {
    if (action === 'move') refuseTaskPath(from);
    await makeWay(acting, to, false, false);
    await ensureFolders(tx, owner, to, site.nowMs);
    await copyOutputs(tx, owner, { from, to }, site.nowMs);
    return to;
  }
  const source = await findRow(tx, owner, from);
  if (source === null) throw noEntry(from);
  await measureSubtree(tx, owner, from, to);
  await makeWay(acting, to, replace, source.file !== null);
  await ensureFolders(tx, owner, to, site.nowMs);
  const { path, parent } = rebased(from, to);
  const now = new Date(site.nowMs);
  // In one statement: its foreign keys are checked at its end.
  if (action === 'move')
    await tx.$executeRaw`UPDATE "TreeEntry" SET path = ${path}, parent = ${parent} WHERE ${subtree(owner, from)}`;
  else
    await tx.$executeRaw`
      INSERT INTO "TreeEntry" ("ownerId", path, parent, "fileId", metadata, "expiresAt", "createdAt", "modifiedAt")
      SELECT "ownerId", ${path}, ${parent}, "fileId", metadata, "expiresAt", ${now}::timestamptz, ${now}::timestamptz
      FROM "TreeEntry" WHERE ${subtree(owner, from)}`;
  return to;
}

/** Gives a file that has an id a path as well. Not one that an image's build or a task may change yet. */
async function link(acting: Acting, { file, to, replace }: Extract<TreeAction, { action: 'link' }>): Promise<string> {
  const { tx, owner, site, removed } = acting;
  if (!(await lockFiles(tx, owner, [file])).has(file)) throw new BerthError('not-found', `There is no file ${file}`);
  const parents = await tx.$queryRaw<{ id: string }[]>`
    SELECT f.id FROM "File" f WHERE f.id = ${file} AND (f."imageId" IS NOT NULL OR EXISTS (SELECT FROM "Task" t
      WHERE t.id = f."taskId" AND t.state::text NOT IN (${Prisma.join(terminalTaskStates)})))`;
  if (parents.length > 0)
    throw new BerthError('in-use', `The file ${file} is a part of an image, or an output of a task that is not over`);
  await makeWay(acting, to, replace, true);
  removed.push(...(await givePath(tx, { owner, path: to, metadata: {}, expiresAt: null }, file, null, site)));
  return to;
}

/** Puts a deletion back, where its paths are free. */
async function restore(
  acting: Acting,
  { deletion: id, to: given, replace }: Extract<TreeAction, { action: 'restore' }>,
): Promise<string> {
  const { tx, owner, site } = acting;
  const deletion = await requireDeletion(tx, owner, id);
  const [from, to] = [deletion.path, given ?? deletion.path];
  const top = await tx.trashEntry.findUniqueOrThrow({ where: { deletionId_path: { deletionId: id, path: from } } });
  await makeWay(acting, to, replace, top.fileId !== null);
  await ensureFolders(tx, owner, to, site.nowMs);
  const { path } = rebased(from, to);
  const now = new Date(site.nowMs);
  // What had expired begins anew: it would expire again at once.
  await tx.$executeRaw`
    WITH back AS (DELETE FROM "TrashEntry" WHERE "deletionId" = ${id} RETURNING *),
      placed AS (SELECT *, ${path} AS place FROM back)
    INSERT INTO "TreeEntry" ("ownerId", path, parent, "fileId", metadata, "expiresAt", "createdAt", "modifiedAt")
    SELECT "ownerId", place, CASE WHEN strpos(place, '/') > 0 THEN regexp_replace(place, '/[^/]*$', '') END, "fileId", metadata,
      NULL, "createdAt", CASE WHEN ${deletion.reason === 'expired'} THEN ${now}::timestamptz ELSE "modifiedAt" END FROM placed`;
  await tx.deletion.delete({ where: { id } });
  return to;
}

async function act(acting: Acting, action: TreeAction): Promise<string> {
  switch (action.action) {
    case 'folder':
      return makeFolder(acting, action.path);
    case 'link':
      return link(acting, action);
    case 'restore':
      return restore(acting, action);
    case 'copy':
    case 'move':
      return transfer(acting, action);
  }
}

/** Does what a client asks of its tree, once for each key. `removed`: bytes to be removed after the commit. */
export async function acceptTreeActionOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { owner, action, site }: { owner: string; action: TreeAction; site: TreeSite },
  answer: (entry: EntryRecord) => StoredAnswer,
): Promise<{ acceptance: Acceptance; removed: RemovedContent[] }> {
  const removed: RemovedContent[] = [];
  const acceptance = await acceptOnce(ledger, request, async (tx) => {
    await lockTree(tx, owner);
    const path = await act({ tx, owner, site, removed }, action);
    await refuseOverEntries(tx, owner, site.maxEntries);
    return answer(await writtenRow(tx, owner, path));
  });
  return { acceptance, removed };
}
