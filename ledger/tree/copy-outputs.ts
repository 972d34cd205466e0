import { BerthError } from '../../model/errors.ts';
import { folderOf, foldersOf, taskFolder, treeStepEntries } from '../../model/tree/path.ts';
import type { Transaction } from '../transaction.ts';
import { refuseTooLong, refuseTooManyRows } from './lock-tree.ts';
import { noEntry } from './read-tree.ts';
import { readOutputFiles } from './task-outputs.ts';

/** Where a copy of outputs goes: its files with their paths, and the folders that these need. */
function copiesOf(files: readonly { path: string; id: string }[], from: string, to: string) {
  const copies = files.map(({ path, id }) => ({ path: `${to}${path.slice(from.length)}`, id }));
  const folders = new Set(copies.flatMap(({ path }) => foldersOf(path).filter((folder) => folder.length >= to.length)));
  for (const { path } of copies) refuseTooLong(to, Buffer.byteLength(path), path.split('/').length);
  return { copies, folders: [...folders] };
}

/** Gives the outputs of a task at a path, and below it, paths of the tree. The folder of the copy exists. */
export async function copyOutputs(
  tx: Transaction,
  owner: string,
  { from, to }: { from: string; to: string },
  nowMs: number,
): Promise<void> {
  if (from === taskFolder) throw new BerthError('conflict', `${taskFolder} has the outputs of all tasks; copy those of one`);
  const files = await readOutputFiles(tx, owner, from, treeStepEntries);
  if (files.length === 0) throw noEntry(from);
  refuseTooManyRows(files.length, from);
  const { copies, folders } = copiesOf(files, from, to);
  const [paths, parents, ids] = [
    [...folders, ...copies.map(({ path }) => path)],
    [...folders, ...copies.map(({ path }) => path)].map(folderOf),
    [...folders.map(() => null), ...copies.map(({ id }) => id)],
  ];
  const now = new Date(nowMs);
  await tx.$executeRaw`
    INSERT INTO "TreeEntry" ("ownerId", path, parent, "fileId", "createdAt", "modifiedAt")
    SELECT ${owner}, n.path, n.parent, n.id, ${now}::timestamptz, ${now}::timestamptz
    FROM unnest(${paths}::text[], ${parents}::text[], ${ids}::text[]) AS n(path, parent, id)`;
}
