import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { terminalTaskStates } from '../../model/states.ts';
import type { Ledger } from '../client.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';

/**
 * A file is in use as a part of an image, in the recipe of one that is being built, as an input of a task that is not
 * over, as such a task's output, by a standalone VM that is not set up yet (its sshd's key is unknown), or by a path.
 */
async function refuseUsed(tx: Transaction, fileId: string): Promise<void> {
  const over = Prisma.join(terminalTaskStates);
  const users = await tx.$queryRaw<{ user: string }[]>`
    SELECT 'image ' || "name" AS "user" FROM "Image"
      WHERE "state" IN ('building', 'ready')
        AND (${fileId} IN ("parts"->'disk'->>'file', "parts"->'kernel'->>'file', "parts"->'initrd'->>'file')
             OR "id" = (SELECT "imageId" FROM "File" WHERE "id" = ${fileId})
             OR "state" = 'building' AND ("recipe"->'base'->>'file' = ${fileId}
               OR "recipe"->'files' @> jsonb_build_array(jsonb_build_object('file', ${fileId}::text))))
    UNION ALL
    SELECT 'task ' || "id" FROM "Task"
      WHERE "state"::text NOT IN (${over})
        AND ("spec"->'inputs' @> jsonb_build_array(jsonb_build_object('file', ${fileId}::text))
             OR "id" = (SELECT "taskId" FROM "File" WHERE "id" = ${fileId}))
    UNION ALL
    SELECT 'VM ' || "id" FROM "Vm"
      WHERE "state" <> 'removed' AND "removalRequestedAt" IS NULL AND "hostKey" IS NULL
        AND "order"->'files' @> jsonb_build_array(jsonb_build_object('file', ${fileId}::text))
    UNION ALL
    (SELECT 'path ' || path FROM "TreeEntry" WHERE "fileId" = ${fileId} LIMIT 1)
    UNION ALL
    (SELECT 'deletion ' || "deletionId" || ', which is in the trash' FROM "TrashEntry" WHERE "fileId" = ${fileId} LIMIT 1)
    LIMIT 1`;
  if (users[0]) throw new BerthError('in-use', `The file ${fileId} is in use by ${users[0].user}`);
}

/** Deletes a file's row. Throws not-found, and in-use while something uses it. Its bytes are the caller's to remove. */
export async function changeFileDeleted(ledger: Ledger, id: string): Promise<void> {
  const work = async (tx: Transaction): Promise<void> => {
    const locked = await tx.$queryRaw<{ id: string }[]>`
      SELECT "id" FROM "File" WHERE "id" = ${id} AND "state" = 'ready' FOR UPDATE`;
    if (locked.length === 0) throw new BerthError('not-found', `There is no file ${id}`);
    await refuseUsed(tx, id);
    await tx.file.delete({ where: { id } });
  };
  await inTransaction(ledger, work, requestLimits);
}
