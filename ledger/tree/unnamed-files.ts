import { Prisma } from '../../generated/prisma/client.ts';
import { terminalTaskStates } from '../../model/states.ts';
import type { Transaction } from '../transaction.ts';

/** Of a file whose row is gone: where its bytes were. */
export interface RemovedContent {
  fileId: string;
  sha256: string;
}

/** Files of an owner that its tasks, images and VMs still need, as delete-file.ts has it of one. */
const neededFiles = (owner: string): Prisma.Sql => Prisma.sql`
  SELECT i->>'file' AS id FROM "Task" t, jsonb_array_elements(t.spec->'inputs') i
    WHERE t."ownerId" = ${owner} AND t.state::text NOT IN (${Prisma.join(terminalTaskStates)})
  UNION ALL
  SELECT unnest(ARRAY[parts->'disk'->>'file', parts->'kernel'->>'file', parts->'initrd'->>'file'])
    FROM "Image" WHERE "ownerId" = ${owner} AND state IN ('building', 'ready')
  UNION ALL
  SELECT recipe->'base'->>'file' FROM "Image" WHERE "ownerId" = ${owner} AND state = 'building'
  UNION ALL
  SELECT i->>'file' FROM "Image", jsonb_array_elements(recipe->'files') i WHERE "ownerId" = ${owner} AND state = 'building'
  UNION ALL
  SELECT i->>'file' FROM "Vm" v, jsonb_array_elements(v."order"->'files') i
    WHERE v."ownerId" = ${owner} AND v.state <> 'removed' AND v."removalRequestedAt" IS NULL AND v."hostKey" IS NULL`;

/**
 * Deletes those of these files that came by a path and that nothing names any more. One that is still needed is marked, and
 * deleted by a later sweep. Returns what was deleted: its bytes are the caller's to remove, after the commit.
 */
export async function deleteUnnamed(
  tx: Transaction,
  owner: string,
  fileIds: readonly string[],
  nowMs: number,
): Promise<RemovedContent[]> {
  if (fileIds.length === 0) return [];
  const ids = [...new Set(fileIds)];
  // Who accepts a task with such a file locks its row as well: it waits, and finds none.
  const unnamed = await tx.$queryRaw<{ id: string }[]>`
    SELECT f.id FROM "File" f WHERE f.id = ANY(${ids}) AND f."ownerId" = ${owner} AND f."ofTree" AND f.state = 'ready'
      AND NOT EXISTS (SELECT FROM "TreeEntry" e WHERE e."fileId" = f.id)
      AND NOT EXISTS (SELECT FROM "TrashEntry" e WHERE e."fileId" = f.id)
    ORDER BY f.id FOR UPDATE`;
  // Of one that was given a path again.
  await tx.file.updateMany({
    where: { id: { in: ids, notIn: unnamed.map(({ id }) => id) }, unnamedAt: { not: null } },
    data: { unnamedAt: null },
  });
  if (unnamed.length === 0) return [];
  const free = unnamed.map(({ id }) => id);
  const deleted = await tx.$queryRaw<RemovedContent[]>`
    DELETE FROM "File" WHERE id = ANY(${free}) AND id NOT IN (SELECT n.id FROM (${neededFiles(owner)}) n WHERE n.id IS NOT NULL)
    RETURNING id AS "fileId", sha256`;
  if (deleted.length < free.length)
    await tx.file.updateMany({ where: { id: { in: free } }, data: { unnamedAt: new Date(nowMs) } });
  return deleted;
}
