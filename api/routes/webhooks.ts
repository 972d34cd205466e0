import { z } from 'zod';
import { acceptSecretOnce, acceptWebhookOnce } from '../../ledger/webhooks/accept-webhook.ts';
import {
  acceptReplayOnce,
  acceptTestOnce,
  changeSecretRemoved,
  changeWebhook,
  changeWebhookRemoved,
} from '../../ledger/webhooks/change-webhook.ts';
import { type DeliveryRecord, readDeliveries, readWebhooks } from '../../ledger/webhooks/read-webhooks.ts';
import { findWebhook, type WebhookRecord } from '../../ledger/webhooks/webhook-row.ts';
import { BerthError } from '../../model/errors.ts';
import { hostOf, isPublicAddress } from '../../model/network/public-address.ts';
import { siteQuotas } from '../../model/owners/quota.ts';
import { newWebhookSecret, webhookKeyOf } from '../../model/webhooks/signature.ts';
import { originOf, type WebhookId } from '../../model/webhooks/webhook.ts';
import type { ApiDeps } from '../deps.ts';
import { json, noContent } from '../http/answer.ts';
import { type Caller, visibleOwner } from '../http/auth.ts';
import { idempotentPost } from '../http/idempotency.ts';
import { type Operation, operation } from '../http/operation.ts';
import { PageQuery, pageOf, readPage } from '../http/page.ts';
import { Id, iso, sequence } from '../schemas/common.ts';
import {
  Delivery,
  NewSecret,
  NewWebhook,
  ReplayOrder,
  SecretOrder,
  Webhook,
  WebhookChange,
  WebhookOrder,
} from '../schemas/webhooks.ts';

function show(row: WebhookRecord): z.input<typeof Webhook> {
  const { ownerId, site, cursor, disabledAt, failingSince, retryAt, deliveredAt, createdAt, secrets, ...same } = row;
  return {
    ...same,
    owner: ownerId,
    scope: site ? 'site' : 'owner',
    cursor: String(cursor),
    disabledAt: iso(disabledAt),
    failingSince: iso(failingSince),
    retryAt: iso(retryAt),
    deliveredAt: iso(deliveredAt),
    createdAt: createdAt.toISOString(),
    secrets: secrets.map((secret) => ({
      id: secret.id,
      createdAt: secret.createdAt.toISOString(),
      expiresAt: iso(secret.expiresAt),
    })),
  };
}

const showDelivery = (row: DeliveryRecord): z.input<typeof Delivery> => ({
  n: String(row.n),
  sequence: String(row.seq),
  event: row.eventId,
  type: row.type,
  taken: row.error === null,
  status: row.status,
  error: row.error,
  ms: row.ms,
  at: row.at.toISOString(),
});

const pathOf = (id: string): string => `/v1/webhooks/${id}`;
const OfSecret = z.strictObject({ id: z.string().max(64), secretId: z.string().max(64) });

/** An address in the URL itself; a name is resolved when deliveries are made. */
function refuseInternal(url: string, allowed: boolean): void {
  const { host, family } = hostOf(new URL(url));
  if (allowed || family === 0 || isPublicAddress(host)) return;
  throw new BerthError('address-refused', `The URL leads to ${host}, which is not a public address`, {
    fields: [{ pointer: '/url', detail: `found ${host}; expected a name, or a public address` }],
  });
}

export function webhookRoutes({ ledger, temporal, config, log, clock }: ApiDeps): Operation[] {
  const sealing = config.webhooks.BERTH_WEBHOOK_KEYS;
  const allowInternal = config.webhooks.BERTH_ALLOW_INTERNAL_URLS;

  function refuseWithoutKey(): void {
    if (sealing.length === 0)
      throw new BerthError('unavailable', 'This site has no key to encrypt secrets of webhooks with; set BERTH_WEBHOOK_KEYS');
  }

  /** What is in the ledger is found by the control workers, should this be lost. */
  async function wake(id: WebhookId): Promise<void> {
    await temporal.wakeWebhook(id).catch((error: unknown) => {
      log.warn({ err: error, webhook: id }, 'a webhook could not be woken; a control worker does it');
    });
  }

  const find = (caller: Caller, id: string) => findWebhook(ledger, visibleOwner(caller), id);

  return [
    operation({
      method: 'get',
      path: '/v1/webhooks',
      id: 'listWebhooks',
      tag: 'webhooks',
      summary: 'List webhooks, newest first',
      description: "A client's own; operators see all.",
      access: 'client',
      query: PageQuery,
      answers: { 200: { description: 'A page', schema: pageOf(Webhook) } },
      problems: [],
      handle: async ({ caller, query }) =>
        json(200, await readPage('webhooks', query, (page) => readWebhooks(ledger, visibleOwner(caller), page), show)),
    }),
    operation({
      method: 'post',
      path: '/v1/webhooks',
      id: 'addWebhook',
      tag: 'webhooks',
      summary: 'Send events to a URL',
      description:
        'As Standard Webhooks has it: a POST for each event, signed by HMAC-SHA256, in their order, each at least once, and none left out. The answer has the secret, once. See docs/webhooks.md.',
      access: 'client',
      body: WebhookOrder,
      answers: { 201: { description: 'Added', schema: NewWebhook, headers: { Location: 'The webhook' } } },
      problems: ['forbidden', 'quota-exceeded', 'address-refused', 'cursor-expired', 'unavailable'],
      handle: async ({ caller, body, idempotencyKey }) => {
        refuseWithoutKey();
        if (body.scope === 'site' && caller.role !== 'operator')
          throw new BerthError('forbidden', "Events of every owner are for operators' keys; leave `scope` out");
        refuseInternal(body.url, allowInternal);
        const secret = body.secret ?? newWebhookSecret();
        const order = {
          owner: caller.ownerId,
          url: body.url,
          description: body.description,
          types: body.types,
          site: body.scope === 'site',
          after: body.after === undefined ? null : BigInt(body.after),
          key: webhookKeyOf(secret)!,
          sealing,
          quotas: siteQuotas(config.api),
          nowMs: clock(),
        };
        // What is remembered for the Idempotency-Key must not have the secret.
        const request = idempotentPost(caller, idempotencyKey, '/v1/webhooks', body);
        const { answer, id, replayed } = await acceptWebhookOnce(ledger, request, order, (row) =>
          json(201, { ...show(row), secret: null }, pathOf(row.id)),
        );
        log.info({ webhook: id, origin: originOf(body.url), keyId: caller.keyId, replayed }, 'webhook added');
        await wake(id as WebhookId);
        const made = NewWebhook.parse(JSON.parse(answer.text ?? ''));
        return replayed ? answer : json(201, { ...made, secret }, answer.location);
      },
    }),
    operation({
      method: 'get',
      path: '/v1/webhooks/{id}',
      id: 'getWebhook',
      tag: 'webhooks',
      summary: 'Describe a webhook',
      access: 'client',
      params: Id,
      answers: { 200: { description: 'How its deliveries go', schema: Webhook } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => json(200, show(await find(caller, id))),
    }),
    operation({
      method: 'patch',
      path: '/v1/webhooks/{id}',
      id: 'changeWebhook',
      tag: 'webhooks',
      summary: 'Change, disable or activate a webhook',
      description: 'What is under way goes on with what it is then, after its cursor. Other types count for events after that.',
      access: 'client',
      params: Id,
      body: WebhookChange,
      answers: { 200: { description: 'Changed', schema: Webhook } },
      problems: ['not-found', 'address-refused'],
      handle: async ({ caller, params: { id }, body }) => {
        if (body.url !== undefined) refuseInternal(body.url, allowInternal);
        const row = await changeWebhook(ledger, visibleOwner(caller), id, body, clock());
        log.info({ webhook: id, changed: Object.keys(body), keyId: caller.keyId }, 'webhook changed');
        await wake(row.id);
        return json(200, show(row));
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/webhooks/{id}',
      id: 'removeWebhook',
      tag: 'webhooks',
      summary: 'Remove a webhook, with its secrets and the list of its deliveries',
      access: 'client',
      params: Id,
      answers: { 204: { description: 'Removed' } },
      problems: ['not-found'],
      handle: async ({ caller, params: { id } }) => {
        await changeWebhookRemoved(ledger, visibleOwner(caller), id);
        log.info({ webhook: id, keyId: caller.keyId }, 'webhook removed');
        // Its workflow ends when it finds nothing.
        await wake(id as WebhookId);
        return noContent;
      },
    }),
    operation({
      method: 'post',
      path: '/v1/webhooks/{id}/secrets',
      id: 'addWebhookSecret',
      tag: 'webhooks',
      summary: 'Add a secret, and end the others after a while',
      description: 'Deliveries are signed by each, so that a receiver can change over at any time in between.',
      access: 'client',
      params: Id,
      body: SecretOrder,
      answers: { 201: { description: 'Added', schema: NewSecret } },
      problems: ['not-found', 'conflict', 'unavailable'],
      handle: async ({ caller, params: { id }, body, idempotencyKey }) => {
        refuseWithoutKey();
        const nowMs = clock();
        const secret = body.secret ?? newWebhookSecret();
        const request = idempotentPost(caller, idempotencyKey, `${pathOf(id)}/secrets`, body);
        const order = {
          owner: visibleOwner(caller),
          webhook: id,
          key: webhookKeyOf(secret)!,
          sealing,
          othersExpireAtMs: nowMs + body.keepOthersS * 1000,
          nowMs,
        };
        const createdAt = new Date(nowMs).toISOString();
        const { answer, replayed } = await acceptSecretOnce(ledger, request, order, (_row, made) =>
          json(201, { id: made, secret: null, createdAt }),
        );
        log.info({ webhook: id, keyId: caller.keyId, replayed }, 'secret of a webhook added');
        await wake(id as WebhookId);
        return replayed ? answer : json(201, { ...NewSecret.parse(JSON.parse(answer.text ?? '')), secret });
      },
    }),
    operation({
      method: 'delete',
      path: '/v1/webhooks/{id}/secrets/{secretId}',
      id: 'removeWebhookSecret',
      tag: 'webhooks',
      summary: 'End a secret now',
      access: 'client',
      params: OfSecret,
      answers: { 204: { description: 'No delivery that begins from now on is signed by it' } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { id, secretId } }) => {
        await changeSecretRemoved(ledger, visibleOwner(caller), id, secretId, clock());
        log.info({ webhook: id, secret: secretId, keyId: caller.keyId }, 'secret of a webhook removed');
        await wake(id as WebhookId);
        return noContent;
      },
    }),
    operation({
      method: 'get',
      path: '/v1/webhooks/{id}/deliveries',
      id: 'listWebhookDeliveries',
      tag: 'webhooks',
      summary: 'List the last 1,000 attempts to deliver an event, newest first',
      access: 'client',
      params: Id,
      query: PageQuery.extend({ cursor: sequence.optional().meta({ description: 'The `next` of the page before' }) }),
      answers: { 200: { description: 'A page', schema: pageOf(Delivery) } },
      problems: ['not-found'],
      handle: async ({ caller, params, query: { limit, cursor } }) => {
        const { id } = await find(caller, params.id);
        const rows = await readDeliveries(ledger, id, { limit, before: cursor === undefined ? null : BigInt(cursor) });
        const shown = rows.slice(0, limit);
        return json(200, { items: shown.map(showDelivery), next: rows.length > limit ? String(shown.at(-1)!.n) : null });
      },
    }),
    operation({
      method: 'post',
      path: '/v1/webhooks/{id}/replay',
      id: 'replayWebhook',
      tag: 'webhooks',
      summary: 'Deliver the events after a cursor, again where they were delivered before',
      description: 'A delivery that is repeated has the same webhook-id: a receiver that leaves out what it knows leaves it out.',
      access: 'client',
      params: Id,
      body: ReplayOrder,
      answers: { 202: { description: 'Accepted', schema: Webhook } },
      problems: ['not-found', 'conflict', 'cursor-expired'],
      handle: async ({ caller, params: { id }, body, idempotencyKey }) => {
        const request = idempotentPost(caller, idempotencyKey, `${pathOf(id)}/replay`, body);
        const order = { owner: visibleOwner(caller), webhook: id, after: BigInt(body.after), nowMs: clock() };
        const { answer, replayed } = await acceptReplayOnce(ledger, request, order, (row) => json(202, show(row)));
        log.info({ webhook: id, after: body.after, keyId: caller.keyId, replayed }, 'webhook replayed');
        await wake(id as WebhookId);
        return answer;
      },
    }),
    operation({
      method: 'post',
      path: '/v1/webhooks/{id}/test',
      id: 'testWebhook',
      tag: 'webhooks',
      summary: 'Send the event `berth.webhook.test` to this endpoint alone',
      description: 'After what it is still to be sent. Where attempts fail, the next one is made now.',
      access: 'client',
      params: Id,
      answers: { 202: { description: 'It will be sent', schema: Webhook } },
      problems: ['not-found', 'conflict'],
      handle: async ({ caller, params: { id }, idempotencyKey }) => {
        const request = idempotentPost(caller, idempotencyKey, `${pathOf(id)}/test`, undefined);
        const order = { owner: visibleOwner(caller), webhook: id, keyId: caller.keyId, nowMs: clock() };
        const { answer } = await acceptTestOnce(ledger, request, order, (row) => json(202, show(row)));
        await wake(id as WebhookId);
        return answer;
      },
    }),
  ];
}
