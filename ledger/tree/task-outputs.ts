import { Prisma } from '../../generated/prisma/client.ts';
import { terminalTaskStates } from '../../model/states.ts';
import { afterPrefix, taskFolder } from '../../model/tree/path.ts';
import type { Ledger } from '../client.ts';
import type { FileRecord } from '../files/file-record.ts';
import type { Transaction } from '../transaction.ts';
import type { EntryRecord, PathPage } from './entry-record.ts';

/** Outputs of tasks that have ended, as entries: tasks/<task>/<node>/<path of the output>. They have no rows in the tree. */

interface OutputRow extends FileRecord {
  path: string;
}

const folderEntry = (path: string, at: Date): EntryRecord => ({
  path,
  file: null,
  metadata: {},
  expiresAt: null,
  createdAt: at,
  modifiedAt: at,
});

const outputEntry = ({ path, ...file }: OutputRow): EntryRecord => ({ ...folderEntry(path, file.createdAt), file });

/** While a task is not over, what it stores may change yet. A task that is kept no more was over. */
const isOver = Prisma.sql`NOT EXISTS (SELECT FROM "Task" t WHERE t.id = f."taskId" AND t.state::text NOT IN (${Prisma.join(terminalTaskStates)}))`;

/** Of one task's outputs that have ended: where they are in the tree. */
const outputsOf = (owner: string, task: string): Prisma.Sql => Prisma.sql`
  SELECT f.id, f."ownerId", f.name, f."sizeBytes", f.sha256, f."createdAt",
    (${`${taskFolder}/${task}/`} || f.node || '/' || f.name) COLLATE "C" AS path
  FROM "File" f WHERE f."ownerId" = ${owner} AND f."taskId" = ${task} AND f.state = 'ready' AND ${isOver}`;

/** The outputs of a task whose path begins with a text, by path. */
async function readTaskOutputs(
  ledger: Ledger,
  owner: string,
  { task, prefix }: { task: string; prefix: string },
  { after, limit }: PathPage,
): Promise<EntryRecord[]> {
  const rows = await ledger.$queryRaw<OutputRow[]>`
    SELECT * FROM (${outputsOf(owner, task)}) o
    WHERE path >= ${prefix} AND (${afterPrefix(prefix)}::text IS NULL OR path < ${afterPrefix(prefix)}) AND path > ${after ?? ''}
    ORDER BY path LIMIT ${limit}`;
  return rows.map(outputEntry);
}

/** The folders of tasks that have outputs, by id. One probe of the index for each: an owner may have 10,000 outputs a task. */
async function readTasks(ledger: Ledger, owner: string, { after, limit }: PathPage): Promise<EntryRecord[]> {
  const begin = after === null ? '' : after.slice(taskFolder.length + 1);
  const rows = await ledger.$queryRaw<{ id: string; at: Date }[]>`
    WITH RECURSIVE ids AS (
      (SELECT "taskId" AS id FROM "File" WHERE "ownerId" = ${owner} AND "taskId" > ${begin} ORDER BY "taskId" LIMIT 1)
      UNION ALL
      SELECT (SELECT n."taskId" FROM "File" n WHERE n."ownerId" = ${owner} AND n."taskId" > ids.id ORDER BY n."taskId" LIMIT 1)
      FROM ids WHERE ids.id IS NOT NULL)
    SELECT ids.id, o.at FROM ids, LATERAL (SELECT f."createdAt" AS at FROM "File" f
      WHERE f."ownerId" = ${owner} AND f."taskId" = ids.id AND f.state = 'ready' AND ${isOver} LIMIT 1) o
    LIMIT ${limit}`;
  return rows.map(({ id, at }) => folderEntry(`${taskFolder}/${id}`, at));
}

/** The task of a path below tasks/. */
const taskOf = (path: string): string => path.split('/')[1] ?? '';

/** What lies in a folder of outputs; the folder is tasks, or below it. */
export async function readTaskFolder(ledger: Ledger, owner: string, folder: string, page: PathPage): Promise<EntryRecord[]> {
  if (folder === taskFolder) return readTasks(ledger, owner, page);
  const inside = `${folder}/`;
  const rows = await ledger.$queryRaw<(OutputRow & { child: string })[]>`
    SELECT DISTINCT ON (child) * FROM (
      SELECT *, (${inside} || split_part(substr(path, length(${inside}) + 1), '/', 1)) COLLATE "C" AS child
      FROM (${outputsOf(owner, taskOf(folder))}) o WHERE starts_with(path, ${inside})) c
    WHERE child > ${page.after ?? ''} ORDER BY child, path LIMIT ${page.limit}`;
  return rows.map(({ child, ...row }) => (child === row.path ? outputEntry(row) : folderEntry(child, row.createdAt)));
}

/** The outputs whose paths begin with a text; of one task, which the text has to name. */
export async function readTaskPrefix(ledger: Ledger, owner: string, prefix: string, page: PathPage): Promise<EntryRecord[]> {
  if (prefix.split('/').length < 3) return [];
  return readTaskOutputs(ledger, owner, { task: taskOf(prefix), prefix }, page);
}

/** An output, or a folder that has some; null: there is none. */
export async function findTaskEntry(ledger: Ledger, owner: string, path: string): Promise<EntryRecord | null> {
  if (path === taskFolder) return folderEntry(path, new Date(0));
  const task = taskOf(path);
  const [first] = await readTaskOutputs(ledger, owner, { task, prefix: path }, { after: null, limit: 1 });
  if (first?.path === path) return first;
  const [inside] = await readTaskOutputs(ledger, owner, { task, prefix: `${path}/` }, { after: null, limit: 1 });
  return inside === undefined ? null : folderEntry(path, inside.createdAt);
}

/** The outputs at a path and below it: where they are, and which files they are. At most so many and one more. */
export async function readOutputFiles(
  tx: Transaction,
  owner: string,
  path: string,
  most: number,
): Promise<{ path: string; id: string }[]> {
  return tx.$queryRaw<{ path: string; id: string }[]>`
    SELECT path, id FROM (${outputsOf(owner, taskOf(path))}) o
    WHERE path = ${path} OR starts_with(path, ${`${path}/`}) ORDER BY path LIMIT ${most + 1}`;
}
