import type { Webhook } from '../../generated/prisma/client.ts';
import { disabledAfterMs, retryDelayMs, warnedAfterMs } from '../../model/webhooks/retry.ts';
import type { WebhookDisabledReason, WebhookId } from '../../model/webhooks/webhook.ts';
import { webhookEventTypes } from '../../model/webhooks/webhook-events.ts';
import type { Ledger } from '../client.ts';
import { writeEvent } from '../events/write-event.ts';
import { inTransaction, type Transaction } from '../transaction.ts';
import { type DeliveryAttempt, keptDeliveries } from './record-progress.ts';
import { aboutWebhook } from './webhook-row.ts';

/** An attempt that was not taken. */
export interface AttemptFailure {
  id: WebhookId;
  epoch: number;
  attempt: DeliveryAttempt & { error: string };
  retryAfterS: number | null;
}

/** Until when the workflow's own timer must have begun the next attempt, before another process does. */
const timerGraceMs = 30_000;
/** The receiver wants no more: 410 Gone. */
const gone = 410;

/**
 * Records a failed attempt: when the next one is due, or that there is none. The event stays the next: nothing is left out.
 * @returns how long to wait; `superseded`: another process delivers; null: the endpoint is disabled now
 */
export async function recordFailure(
  { ledger, clock }: { ledger: Ledger; clock: () => number },
  { id, epoch, attempt, retryAfterS }: AttemptFailure,
): Promise<{ waitMs: number; failures: number } | 'superseded' | null> {
  return inTransaction(ledger, async (tx) => {
    const nowMs = clock();
    const held = await tx.$queryRaw<{ id: string }[]>`
      SELECT id FROM "Webhook" WHERE id = ${id} AND epoch = ${epoch} AND state = 'active' FOR UPDATE`;
    if (held.length === 0) return 'superseded';
    const before = await tx.webhook.findUniqueOrThrow({ where: { id } });
    const n = before.attempts + 1n;
    const { atMs, ...made } = attempt;
    await tx.webhookDelivery.create({ data: { webhookId: id, n, ...made, at: new Date(atMs) } });
    await tx.webhookDelivery.deleteMany({ where: { webhookId: id, n: { lte: n - BigInt(keptDeliveries) } } });
    const failures = before.failures + 1;
    const failingSince = before.failingSince ?? new Date(atMs);
    const waitMs = retryDelayMs(failures, retryAfterS, Math.random());
    const row = await tx.webhook.update({
      where: { id },
      data: {
        attempts: n,
        failures,
        failingSince,
        lastError: attempt.error,
        retryAt: new Date(nowMs + waitMs),
        dueAt: new Date(nowMs + waitMs + timerGraceMs),
        // Counts the times that it began to fail: it tells their events apart.
        ...(before.failingSince === null && { troubles: { increment: 1 } }),
      },
    });
    const failingMs = nowMs - failingSince.getTime();
    if (attempt.status === gone || failingMs >= disabledAfterMs) {
      await disable(tx, row, attempt.status === gone ? 'gone' : 'failing', nowMs);
      return null;
    }
    if (row.warnedAt === null && failingMs >= warnedAfterMs) await warn(tx, row, nowMs);
    return { waitMs, failures };
  });
}

const progressOf = ({ cursor, failures }: Webhook) => ({ cursor: String(cursor), failures });

async function warn(tx: Transaction, row: Webhook, nowMs: number): Promise<void> {
  await tx.webhook.update({ where: { id: row.id }, data: { warnedAt: new Date(nowMs) } });
  const about = aboutWebhook(row, nowMs);
  const since = row.failingSince!.toISOString();
  const data = { ...about.data, ...progressOf(row), since, error: row.lastError ?? '' };
  await writeEvent(tx, { type: webhookEventTypes.failing, ...about, n: row.troubles, data }, 'reject');
}

/** Ends the deliveries of a locked endpoint, and tells it. Its cursor stays, so that they can go on. */
export async function disable(tx: Transaction, row: Webhook, reason: WebhookDisabledReason, nowMs: number): Promise<void> {
  await tx.webhook.update({
    where: { id: row.id },
    data: {
      state: 'disabled',
      disabledReason: reason,
      disabledAt: new Date(nowMs),
      disablings: { increment: 1 },
      dueAt: null,
      retryAt: null,
      epoch: { increment: 1 },
    },
  });
  const since = row.failingSince?.toISOString() ?? null;
  const about = aboutWebhook(row, nowMs);
  const data = { ...about.data, ...progressOf(row), reason, since, error: row.lastError };
  await writeEvent(tx, { type: webhookEventTypes.disabled, ...about, n: row.disablings + 1, data }, 'reject');
}
