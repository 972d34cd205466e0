import type { TaskId } from '../../model/ids.ts';
import { terminalTaskStates } from '../../model/states.ts';
import type { LedgerDeps } from '../transaction.ts';

const hourMs = 3600 * 1000;
/** For how long a repeated POST gets its first answer. */
const idempotencyMs = 24 * hourMs;
/** Longer than any upload lasts; the API removes its own sooner, and the bytes with them. */
const uploadMs = 48 * hourMs;
/** So many tasks are taken care of in one round. */
const batch = 100;

/** Accepted tasks that no workflow has asked for yet, oldest first: the API died before it could start one. */
export async function listTasksWithoutWorkflow(deps: LedgerDeps, olderThanS: number): Promise<TaskId[]> {
  const tasks = await deps.ledger.task.findMany({
    where: { state: 'queued', workflowAt: null, createdAt: { lt: new Date(deps.clock() - olderThanS * 1000) } },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    select: { id: true },
    take: batch,
  });
  return tasks.map((task) => task.id as TaskId);
}

/** Few: for each of them Temporal is asked for a second workflow, which it refuses. */
const underWayPage = 20;

/** Tasks that a workflow has asked for and that have not ended, a page at a time, in the order of their ids. */
export async function listActiveTasks(deps: LedgerDeps, after: TaskId | null): Promise<TaskId[]> {
  const tasks = await deps.ledger.task.findMany({
    where: {
      state: { notIn: [...terminalTaskStates] },
      workflowAt: { not: null },
      ...(after === null ? {} : { id: { gt: after } }),
    },
    orderBy: { id: 'asc' },
    select: { id: true },
    take: underWayPage,
  });
  return tasks.map((task) => task.id as TaskId);
}

/** Tasks with a workflow whose end was asked for that long ago and that still have none: the request was lost on its way. */
export async function listTasksToCancel(deps: LedgerDeps, olderThanS: number): Promise<TaskId[]> {
  const tasks = await deps.ledger.task.findMany({
    where: {
      state: { notIn: [...terminalTaskStates] },
      workflowAt: { not: null },
      cancelRequestedAt: { lt: new Date(deps.clock() - olderThanS * 1000) },
    },
    orderBy: [{ cancelRequestedAt: 'asc' }, { id: 'asc' }],
    select: { id: true },
    take: batch,
  });
  return tasks.map((task) => task.id as TaskId);
}

/** Removes expired idempotency keys and abandoned uploads; returns how many rows. */
export async function sweepExpiredRows(deps: LedgerDeps): Promise<number> {
  const before = (ms: number) => new Date(deps.clock() - ms);
  const keys = await deps.ledger.idempotency.deleteMany({ where: { createdAt: { lt: before(idempotencyMs) } } });
  const uploads = await deps.ledger.file.deleteMany({ where: { state: 'uploading', createdAt: { lt: before(uploadMs) } } });
  return keys.count + uploads.count;
}
