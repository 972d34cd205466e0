import { BerthError } from '../../model/errors.ts';
import type { WebhookState } from '../../model/webhooks/webhook.ts';
import { webhookEventTypes } from '../../model/webhooks/webhook-events.ts';
import type { Ledger } from '../client.ts';
import { readEventLog } from '../events/event-log.ts';
import { numberAllEvents } from '../events/number-events.ts';
import { writeEvent } from '../events/write-event.ts';
import { type Acceptance, acceptOnce, type IdempotentRequest, type StoredAnswer } from '../idempotency.ts';
import { inTransaction, requestLimits, type Transaction } from '../transaction.ts';
import { refuseCursor } from './accept-webhook.ts';
import { disable } from './record-failure.ts';
import { aboutWebhook, dueAgain, findWebhook, lockWebhook, type WebhookRecord } from './webhook-row.ts';

export interface WebhookChange {
  url?: string | undefined;
  description?: string | undefined;
  types?: string[] | undefined;
  state?: WebhookState | undefined;
}

/** As if it had not failed: the next attempt is due now. */
const anew = (nowMs: number) => ({
  dueAt: new Date(nowMs),
  retryAt: null,
  failures: 0,
  failingSince: null,
  warnedAt: null,
  lastError: null,
});

/**
 * Changes an endpoint; the deliveries that are under way end, and go on with what it is then. One that is activated goes on after its
 * cursor. Throws not-found. @param owner whose; null: any owner's
 */
export async function changeWebhook(
  ledger: Ledger,
  owner: string | null,
  id: string,
  { state, ...change }: WebhookChange,
  nowMs: number,
): Promise<WebhookRecord> {
  const work = async (tx: Transaction): Promise<WebhookRecord> => {
    const before = await lockWebhook(tx, owner, id);
    const activated = state === 'active' && before.state === 'disabled';
    const given = Object.fromEntries(Object.entries(change).filter(([, value]) => value !== undefined));
    // Another URL may work: it is tried at once.
    const triesAnew = activated || (before.state === 'active' && change.url !== undefined);
    const row = await tx.webhook.update({
      where: { id },
      data: {
        ...given,
        ...(activated && { state, disabledReason: null, disabledAt: null }),
        ...(triesAnew ? anew(nowMs) : dueAgain(before, new Date(nowMs))),
        epoch: { increment: 1 },
      },
    });
    if (state === 'disabled' && before.state === 'active') await disable(tx, row, 'owner', nowMs);
    return findWebhook(tx, null, id);
  };
  return inTransaction(ledger, work, requestLimits);
}

/** Removes an endpoint with its secrets and deliveries. Throws not-found. */
export async function changeWebhookRemoved(ledger: Ledger, owner: string | null, id: string): Promise<void> {
  const work = async (tx: Transaction): Promise<void> => {
    await lockWebhook(tx, owner, id);
    await tx.webhook.delete({ where: { id } });
  };
  await inTransaction(ledger, work, requestLimits);
}

/** Ends a secret now. Throws not-found, and conflict for the last one: deliveries would have no signature. */
export async function changeSecretRemoved(
  ledger: Ledger,
  owner: string | null,
  id: string,
  secret: string,
  nowMs: number,
): Promise<void> {
  const work = async (tx: Transaction): Promise<void> => {
    const webhook = await lockWebhook(tx, owner, id);
    if (!webhook.secrets.some((one) => one.id === secret))
      throw new BerthError('not-found', `There is no secret ${secret} of webhook ${id}`);
    const lasting = webhook.secrets.filter(({ id: other, expiresAt }) => other !== secret && expiresAt === null);
    if (lasting.length === 0)
      throw new BerthError(
        'conflict',
        `${secret} is the last secret of webhook ${id} that does not expire; add another one first`,
      );
    await tx.webhookSecret.delete({ where: { id: secret } });
    await tx.webhook.update({ where: { id }, data: { epoch: { increment: 1 }, ...dueAgain(webhook, new Date(nowMs)) } });
  };
  await inTransaction(ledger, work, requestLimits);
}

interface ReplayOrder {
  owner: string | null;
  webhook: string;
  after: bigint;
  nowMs: number;
}

const refuseDisabled = ({ id, state }: WebhookRecord): void => {
  if (state === 'disabled') throw new BerthError('conflict', `Webhook ${id} is disabled; activate it first`);
};

/**
 * Delivers the events after a cursor, again where they were delivered before. Throws not-found, conflict for a disabled one,
 * bad-request and cursor-expired.
 */
export async function acceptReplayOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { owner, webhook, after, nowMs }: ReplayOrder,
  answer: (webhook: WebhookRecord) => StoredAnswer,
): Promise<Acceptance> {
  await numberAllEvents(ledger);
  return acceptOnce(ledger, request, async (tx) => {
    const found = await lockWebhook(tx, owner, webhook);
    refuseDisabled(found);
    refuseCursor(after, await readEventLog(tx as Ledger));
    await tx.webhook.update({
      where: { id: webhook },
      data: { cursor: after, dueAt: new Date(nowMs), retryAt: null, epoch: { increment: 1 } },
    });
    return answer(await findWebhook(tx, null, webhook));
  });
}

/** Writes an event for this endpoint alone, after those that it is still to be sent. Throws not-found, and conflict for a disabled one. */
export async function acceptTestOnce(
  ledger: Ledger,
  request: IdempotentRequest,
  { owner, webhook, keyId, nowMs }: { owner: string | null; webhook: string; keyId: string; nowMs: number },
  answer: (webhook: WebhookRecord) => StoredAnswer,
): Promise<Acceptance> {
  return acceptOnce(ledger, request, async (tx) => {
    const found = await lockWebhook(tx, owner, webhook);
    refuseDisabled(found);
    // One that fails is tried now; all others see the event.
    const isTried = found.retryAt !== null && { dueAt: new Date(nowMs) };
    const { tests } = await tx.webhook.update({ where: { id: webhook }, data: { tests: { increment: 1 }, ...isTried } });
    const about = aboutWebhook(found, nowMs);
    await writeEvent(tx, { type: webhookEventTypes.test, ...about, n: tests, data: { ...about.data, by: keyId } }, 'reject');
    return answer(await findWebhook(tx, null, webhook));
  });
}
