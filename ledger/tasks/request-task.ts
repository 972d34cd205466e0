import { BerthError } from '../../model/errors.ts';
import type { QuotaLimits } from '../../model/owners/quota.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { lockOwner } from '../owners/lock-owner.ts';
import { withinQuotas } from '../owners/quotas.ts';
import type { Transaction } from '../transaction.ts';
import { acceptTask, type TaskRequest } from './accept-task.ts';
import { findTask, type TaskRecord } from './read-tasks.ts';

/** The queue's length. The owner's bound is exact; the site's may be passed by as many tasks as are accepted at the same moment. */
async function refuseWhenQueueFull(tx: Transaction, ownerId: string, limits: { site: number; owner: number }): Promise<void> {
  await lockOwner(tx, 'queue', ownerId);
  const owner = await tx.owner.findUniqueOrThrow({ where: { id: ownerId }, select: { maxQueued: true } });
  const ownerLimit = owner.maxQueued ?? limits.owner;
  const ownQueued = await tx.task.count({ where: { ownerId, state: 'queued' } });
  if (ownQueued >= ownerLimit)
    throw new BerthError(
      'quota-exceeded',
      `This owner has ${ownQueued} tasks in the queue, of at most ${ownerLimit}; wait for some`,
    );
  const queued = await tx.task.count({ where: { state: 'queued' } });
  if (queued >= limits.site)
    throw new BerthError('queue-full', `The queue has ${queued} tasks, of at most ${limits.site}; try again later`);
}

/**
 * Accepts a task once for each idempotency key. Throws quota-exceeded, queue-full, and what acceptTask throws.
 * @param task `quotas`: the site's limits, for an owner whose row says nothing
 */
export async function acceptTaskOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  task: TaskRequest & { maxQueued: number; quotas: QuotaLimits },
  answer: (task: TaskRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const { owner, quotas, nowMs } = task;
    await refuseWhenQueueFull(tx, owner, { site: task.maxQueued, owner: quotas.queued });
    const id = await withinQuotas(tx, owner, { limits: quotas, nowMs }, () => acceptTask(tx, task));
    return answer(await findTask(tx, task.owner, id));
  });
}

/** Notes that a task's cancellation was requested; a repeat keeps the first time. */
export async function changeTaskCancelRequested(ledger: Ledger, id: string, nowMs: number): Promise<void> {
  await ledger.task.updateMany({ where: { id, cancelRequestedAt: null }, data: { cancelRequestedAt: new Date(nowMs) } });
}
