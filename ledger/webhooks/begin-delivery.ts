import type { Webhook } from '../../generated/prisma/client.ts';
import { openSealed, type SealingKey } from '../../model/webhooks/sealing.ts';
import type { WebhookFilter, WebhookId } from '../../model/webhooks/webhook.ts';
import { webhookEventTypes } from '../../model/webhooks/webhook-events.ts';
import type { Ledger } from '../client.ts';
import { readEventFloor } from '../events/event-log.ts';
import { writeEvent } from '../events/write-event.ts';
import { inTransaction, type Transaction } from '../transaction.ts';
import { aboutWebhook, sealHolderOf } from './webhook-row.ts';

/** An endpoint whose deliveries have begun in this process. */
export interface StartedDelivery extends WebhookFilter {
  id: WebhookId;
  url: string;
  /** Grows with each beginning and each change: what is recorded with an older one changes nothing. */
  epoch: number;
  cursor: bigint;
  keys: Buffer[];
}

/** How long deliveries that have begun may record nothing before another process begins them. Renewed with each record. */
export const deliveryLeaseMs = 90_000;

/**
 * Begins the deliveries of an endpoint here; those that another process has begun end with what they record next. Where events
 * after its cursor are kept no more, an event says which, and deliveries go on after them.
 * @returns null: it was removed, or is disabled
 */
export async function beginDelivery(
  { ledger, keys, clock }: { ledger: Ledger; keys: readonly SealingKey[]; clock: () => number },
  id: WebhookId,
): Promise<StartedDelivery | null> {
  return inTransaction(ledger, async (tx) => {
    const nowMs = clock();
    const rows = await tx.$queryRaw<{ active: boolean }[]>`
      SELECT state = 'active' AS active FROM "Webhook" WHERE id = ${id} FOR UPDATE`;
    if (rows[0]?.active !== true) return null;
    const row = await tx.webhook.findUniqueOrThrow({ where: { id }, include: { secrets: true } });
    const { floor } = await readEventFloor(tx as Ledger);
    const isMissed = row.cursor < floor;
    const cursor = isMissed ? floor : row.cursor;
    if (isMissed) await tellMissed(tx, row, floor, nowMs);
    const epoch = row.epoch + 1;
    await tx.webhook.update({ where: { id }, data: { epoch, cursor, dueAt: new Date(nowMs + deliveryLeaseMs) } });
    const valid = row.secrets.filter(({ expiresAt }) => expiresAt === null || expiresAt.getTime() > nowMs);
    return {
      id,
      ownerId: row.ownerId,
      site: row.site,
      types: row.types,
      url: row.url,
      epoch,
      cursor,
      // The newest first: a receiver compares signatures in their order.
      keys: valid
        .toSorted((a, b) => b.createdAt.getTime() - a.createdAt.getTime())
        .map((secret) => openSealed(keys, secret, sealHolderOf(id, secret.id))),
    };
  });
}

async function tellMissed(tx: Transaction, row: Webhook, floor: bigint, nowMs: number): Promise<void> {
  const about = aboutWebhook(row, nowMs);
  const data = { ...about.data, after: String(row.cursor), through: String(floor) };
  // A replay leads below no floor, so each floor is missed once.
  await writeEvent(tx, { type: webhookEventTypes.missed, ...about, n: Number(floor), data }, 'reject');
}
