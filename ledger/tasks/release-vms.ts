import type { Notification } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import type { TaskState } from '../../model/states.ts';
import { lockPlacement, placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, type LedgerDeps, type Transaction } from '../transaction.ts';

/** What may have run is being removed first; it goes on taking its room, so no lock is needed yet. */
async function markRemoving(tx: Transaction, ids: readonly VmId[]): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Vm" SET state = 'removing' WHERE id = ANY(${ids}) AND state NOT IN ('pending', 'reserved', 'removing', 'removed')`;
}

/** The trigger on Vm gives the hosts their room back. */
async function markRemoved(tx: Transaction, ids: readonly VmId[]): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Vm" SET state = 'removed', problem = NULL WHERE id = ANY(${ids}) AND state <> 'removed'`;
}

/**
 * Frees what these VMs take, in every state: the caller knows that nothing of them is left on a host, or that they were
 * never placed. Places what waits. Returns the tasks whose workflows are to ask where they are.
 */
export async function releaseVms(deps: LedgerDeps, ids: VmId[]): Promise<Notification[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await markRemoving(tx, ids);
    await lockPlacement(tx);
    await markRemoved(tx, ids);
    return (await placeWaiting(deps, tx)).notify;
  });
}

/**
 * Puts a task back into the queue whose host fell silent before a domain was asked for; its place in the queue is still
 * that of its age. The address goes back as well: the next placement brings another, and a higher generation. Throws
 * conflict when one of its VMs may have a domain.
 */
export async function requeueTask(deps: LedgerDeps, id: TaskId): Promise<Notification[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const rows = await tx.$queryRaw<{ state: TaskState; beyond: number }[]>`
      SELECT state, (SELECT count(*)::int FROM "Vm" WHERE "taskId" = t.id AND state NOT IN ('pending', 'reserved')) AS beyond
      FROM "Task" t WHERE id = ${id} FOR UPDATE`;
    const task = rows[0];
    if (task === undefined) throw new BerthError('not-found', `There is no task ${id} in the ledger`);
    if (task.beyond > 0)
      throw new BerthError(
        'conflict',
        `Task ${id} cannot go back to the queue: ${task.beyond} of its VMs were created or removed`,
      );
    // Queued already: this is a repeat, and the task may have been placed anew in between.
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
