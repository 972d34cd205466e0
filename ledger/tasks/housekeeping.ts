import { Prisma } from '../../generated/prisma/client.ts';
import type { TaskId } from '../../model/ids.ts';
import { terminalTaskStates } from '../../model/states.ts';
import { batch, secondsAgo } from '../housekeeping.ts';
import type { LedgerDeps } from '../transaction.ts';

/** Accepted tasks whose workflow was never started, because the API died first; the oldest first. */
export async function listTasksWithoutWorkflow(deps: LedgerDeps, olderThanS: number): Promise<TaskId[]> {
  const tasks = await deps.ledger.task.findMany({
    where: { state: 'queued', workflowAt: null, createdAt: { lt: secondsAgo(deps, olderThanS) } },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    select: { id: true },
    take: batch,
  });
  return tasks.map((task) => task.id as TaskId);
}

/** As constants: the condition of the indexes that have open tasks alone. */
const notEnded = Prisma.sql`state NOT IN (${Prisma.raw(terminalTaskStates.map((state) => `'${state}'`).join(', '))})`;

/** Small, because Temporal has to refuse a second workflow for each task of a page. */
const activePage = 20;

/** Tasks with a workflow that have not ended, or have VMs to remove yet, a page at a time, in the order of their ids. */
export async function listActiveTasks(deps: LedgerDeps, after: TaskId | null): Promise<TaskId[]> {
  const tasks = await deps.ledger.$queryRaw<{ id: TaskId }[]>`
    (SELECT id FROM "Task" WHERE ${notEnded} AND "workflowAt" IS NOT NULL AND id > ${after ?? ''} ORDER BY id LIMIT ${activePage})
    UNION (SELECT "taskId" FROM "Vm" WHERE state IN ('removing', 'stuck') AND "taskId" > ${after ?? ''} ORDER BY "taskId" LIMIT ${activePage})
    ORDER BY id LIMIT ${activePage}`;
  return tasks.map(({ id }) => id);
}

/** Tasks with a workflow whose cancellation was requested that long ago and that have not ended: the request was lost. */
export async function listTasksToCancel(deps: LedgerDeps, olderThanS: number): Promise<TaskId[]> {
  const tasks = await deps.ledger.$queryRaw<{ id: TaskId }[]>`
    SELECT id FROM "Task"
    WHERE ${notEnded} AND "workflowAt" IS NOT NULL AND "cancelRequestedAt" < ${secondsAgo(deps, olderThanS)}
    ORDER BY "cancelRequestedAt", id LIMIT ${batch}`;
  return tasks.map(({ id }) => id);
}
