import { BerthError } from '../../model/errors.ts';
import type { PublicPorts } from '../../model/network/published-port.ts';
import type { QuotaLimits } from '../../model/owners/quota.ts';
import type { Ledger } from '../client.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { openBill } from '../market/open-bill.ts';
import { withinQuotas } from '../owners/quotas.ts';
import { insertPorts } from '../ports/insert-ports.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';
import { acceptTask, type TaskRequest } from './accept-task.ts';
import type { TaskRecord } from './read-tasks.ts';

const ofSpec = (index: number): string => `/ports/${index}/publicPort`;

/** The queue's length. The owner's bound is exact, as its accepts are serialized; the site's may be passed by as many tasks as are accepted at the same moment. */
async function refuseWhenQueueFull(tx: Transaction, ownerId: string, limits: { site: number; owner: number }): Promise<void> {
  const rows = await tx.$queryRaw<{ maxQueued: number | null; ownQueued: number; queued: number }[]>`
    SELECT o."maxQueued", (SELECT count(*)::int FROM "Task" WHERE "ownerId" = o.id AND state = 'queued') AS "ownQueued",
      (SELECT count(*)::int FROM "Task" WHERE state = 'queued') AS queued
    FROM "Owner" o WHERE o.id = ${ownerId}`;
  const { maxQueued, ownQueued, queued } = oneOrNotFound(rows, `owner ${ownerId}`);
  const ownerLimit = maxQueued ?? limits.owner;
  if (ownQueued >= ownerLimit)
    throw new BerthError(
      'quota-exceeded',
      `This owner has ${ownQueued} tasks in the queue, of at most ${ownerLimit}; wait for some`,
    );
  if (queued >= limits.site)
    throw new BerthError('queue-full', `The queue has ${queued} tasks, of at most ${limits.site}; try again later`);
}

/**
 * Accepts a task once for each idempotency key. Throws quota-exceeded, queue-full, and what acceptTask, insertPorts and openBill
 * throw.
 * @param task `quotas`: the site's limits, for an owner whose row says nothing; `publicPorts`: where its ports are published
 */
export async function acceptTaskOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  task: TaskRequest & { keyId: string; maxQueued: number; quotas: QuotaLimits; publicPorts: PublicPorts },
  answer: (task: TaskRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const { owner, spec, keyId, quotas, publicPorts, nowMs } = task;
    const { inserted, hasPrices } = await withinQuotas(tx, owner, { limits: quotas, nowMs }, async () => {
      await refuseWhenQueueFull(tx, owner, { site: task.maxQueued, owner: quotas.queued });
      const row = await acceptTask(tx, task);
      const vms = row.vms.map(({ id }) => id);
      await insertPorts(tx, { owner, vms, ports: spec.ports, site: publicPorts, nowMs, pointer: ofSpec });
      return row;
    });
    if (hasPrices || spec.quote !== undefined || spec.market !== undefined)
      await openBill(tx, {
        owner,
        lease: inserted.leaseId,
        subject: inserted.id,
        quote: spec.quote,
        market: spec.market,
        keyId,
        nowMs,
      });
    return answer(inserted);
  });
}

/** Notes that a task's cancellation was requested; a repeat keeps the first time. */
export async function changeTaskCancelRequested(ledger: Ledger, id: string, nowMs: number): Promise<void> {
  await ledger.task.updateMany({ where: { id, cancelRequestedAt: null }, data: { cancelRequestedAt: new Date(nowMs) } });
}
