import type { Notification } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskId } from '../../model/ids.ts';
import type { TaskState } from '../../model/states.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { placeWaiting } from '../placement/place-queue.ts';
import { oneOrNotFound } from '../rows.ts';
import { inTransaction, type LedgerDeps } from '../transaction.ts';

/**
 * Returns a task to the queue, at the position of its age, whose host became unreachable before a domain was requested. Its
 * addresses are released as well: the next placement assigns others, and a higher generation. Throws conflict when one
 * of its VMs may have a domain.
 */
export async function requeueTask(deps: LedgerDeps, id: TaskId): Promise<Notification[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const rows = await tx.$queryRaw<{ state: TaskState; createdVms: number }[]>`
      SELECT state, (SELECT count(*)::int FROM "Vm" WHERE "taskId" = t.id AND state NOT IN ('pending', 'reserved')) AS "createdVms"
      FROM "Task" t WHERE id = ${id} FOR UPDATE`;
    const task = oneOrNotFound(rows, `task ${id}`);
    if (task.createdVms > 0)
      throw new BerthError(
        'conflict',
        `Task ${id} cannot go back to the queue: ${task.createdVms} of its VMs were created or removed`,
      );
    // A task that is queued already is a repeat's, and may have been placed again meanwhile.
    if (task.state !== 'queued') {
      await tx.$executeRaw`UPDATE "Vm" SET state = 'pending' WHERE "taskId" = ${id} AND state = 'reserved'`;
      await tx.$executeRaw`
        WITH task AS (
          UPDATE "Task" SET state = 'queued', "placedAt" = NULL, timeline = '[]' WHERE id = ${id} RETURNING "leaseId"
        )
        UPDATE "Lease" SET "startedAt" = NULL, "runFrom" = NULL, suspension = NULL, operation = NULL WHERE id IN (SELECT "leaseId" FROM task)`;
    }
    return (await placeWaiting(deps, tx)).notify;
  });
}
