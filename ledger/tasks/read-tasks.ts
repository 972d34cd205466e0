import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskState } from '../../model/states.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import type { Transaction } from '../transaction.ts';

const withVms = {
  vms: { select: { id: true, hostId: true }, orderBy: { node: 'asc' } },
  lease: { select: { startAt: true, endAt: true } },
} as const;

/** A task, its VMs by node, and the promised times of its lease. */
export type TaskRecord = Prisma.TaskGetPayload<{ include: typeof withVms }>;

/** @param owner whose task; null: any owner's. Throws not-found. */
export async function findTask(tx: Transaction, owner: string | null, id: string): Promise<TaskRecord> {
  const row = await tx.task.findFirst({ where: { id, ...(owner !== null && { ownerId: owner }) }, include: withVms });
  if (!row) throw new BerthError('not-found', `There is no task ${id}`);
  return row;
}

export async function readTasks(
  ledger: Ledger,
  filter: { owner: string | null; state?: TaskState | undefined },
  page: PageRequest,
): Promise<TaskRecord[]> {
  const { owner, state } = filter;
  return ledger.task.findMany({ ...pageQuery(page, { ownerId: owner ?? undefined, state }), include: withVms });
}

export async function readTaskState(ledger: Ledger, id: string): Promise<TaskState> {
  const { state } = await ledger.task.findUniqueOrThrow({ where: { id }, select: { state: true } });
  return state;
}

/** Throws not-found. */
export async function findTaskOwner(ledger: Ledger, taskId: string): Promise<string> {
  const task = await ledger.task.findUnique({ where: { id: taskId }, select: { ownerId: true } });
  if (!task) throw new BerthError('not-found', `There is no task ${taskId}`);
  return task.ownerId;
}
