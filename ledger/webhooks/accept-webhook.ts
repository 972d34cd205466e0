import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import type { QuotaLimits } from '../../model/owners/quota.ts';
import { type SealingKey, sealSecret } from '../../model/webhooks/sealing.ts';
import type { Ledger } from '../client.ts';
import { type EventLog, readEventLog } from '../events/event-log.ts';
import { numberAllEvents } from '../events/number-events.ts';
import { cursorExpired } from '../events/read.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { withinQuota } from '../owners/quotas.ts';
import type { Transaction } from '../transaction.ts';
import { dueAgain, findWebhook, lockWebhook, sealHolderOf, type WebhookRecord } from './webhook-row.ts';

export interface WebhookRequest {
  owner: string;
  url: string;
  description: string;
  types: string[];
  site: boolean;
  /** Events after it are delivered; null: those that come from now on. */
  after: bigint | null;
  key: Buffer;
  sealing: readonly SealingKey[];
  quotas: QuotaLimits;
  nowMs: number;
}

/** Throws bad-request for a number that no event has yet, and cursor-expired. */
export function refuseCursor(after: bigint, log: EventLog): void {
  if (after < log.floor) throw cursorExpired(after, log);
  if (after > log.last)
    throw new BerthError('bad-request', 'There is no such event yet', {
      fields: [{ pointer: '/after', detail: `found ${after}; expected at most ${log.last}, the newest event's sequence` }],
    });
}

/** Adds a webhook with one secret, once for each key. Throws quota-exceeded, bad-request and cursor-expired. */
export async function acceptWebhookOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  order: WebhookRequest,
  answer: (webhook: WebhookRecord) => StoredAnswer,
): Promise<Acceptance> {
  // What has happened before is not delivered.
  await numberAllEvents(ledger);
  return acceptOnce(ledger, request, async (tx) => {
    const { owner, quotas, nowMs, url, description, types, site, after } = order;
    const id = newId('webhook');
    await withinQuota(tx, owner, 'webhooks', { limits: quotas, nowMs }, async () => {
      const log = await readEventLog(tx as Ledger);
      if (after !== null) refuseCursor(after, log);
      const createdAt = new Date(nowMs);
      const row = { id, ownerId: owner, url, description, types, site, cursor: after ?? log.last, dueAt: createdAt, createdAt };
      await tx.webhook.create({ data: row });
      await addSecret(tx, id, order);
    });
    return answer(await findWebhook(tx, owner, id));
  });
}

async function addSecret(
  tx: Transaction,
  webhookId: string,
  { key, sealing, nowMs }: Pick<WebhookRequest, 'key' | 'sealing' | 'nowMs'>,
): Promise<string> {
  const id = newId('secret');
  const sealed = sealSecret(sealing, key, sealHolderOf(webhookId, id));
  await tx.webhookSecret.create({ data: { id, webhookId, ...sealed, createdAt: new Date(nowMs) } });
  return id;
}

/** Each is a signature of every delivery. */
const maxSecrets = 4;

export interface SecretRequest extends Pick<WebhookRequest, 'key' | 'sealing' | 'nowMs'> {
  /** Whose webhook; null: any owner's. */
  owner: string | null;
  webhook: string;
  /** Until when the others are valid, ms since 1970. */
  othersExpireAtMs: number;
}

/** Adds a secret, and ends the others then. Throws not-found, and conflict where there are too many. */
export async function acceptSecretOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { owner, webhook, othersExpireAtMs, ...order }: SecretRequest,
  answer: (webhook: WebhookRecord, secret: string) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const locked = await lockWebhook(tx, owner, webhook);
    const { id, ownerId } = locked;
    const now = new Date(order.nowMs);
    await tx.webhookSecret.deleteMany({ where: { webhookId: id, expiresAt: { lte: now } } });
    if ((await tx.webhookSecret.count({ where: { webhookId: id } })) >= maxSecrets)
      throw new BerthError('conflict', `Webhook ${id} has ${maxSecrets} secrets; remove one first`);
    const until = new Date(othersExpireAtMs);
    await tx.webhookSecret.updateMany({
      where: { webhookId: id, OR: [{ expiresAt: null }, { expiresAt: { gt: until } }] },
      data: { expiresAt: until },
    });
    const secret = await addSecret(tx, id, order);
    await tx.webhook.update({ where: { id }, data: { epoch: { increment: 1 }, ...dueAgain(locked, now) } });
    return answer(await findWebhook(tx, ownerId, id), secret);
  });
}
