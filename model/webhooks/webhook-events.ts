import { z } from 'zod';
import { webhookDisabledReasons, webhookOwnTypes } from './webhook.ts';

export const webhookEventTypes = {
  failing: 'berth.webhook.failing',
  disabled: 'berth.webhook.disabled',
  ...webhookOwnTypes,
} as const;

const fields = {
  webhook: z.string(),
  owner: z.string(),
  /** Of its URL: the rest may be a secret. */
  origin: z.string(),
  at: z.iso.datetime(),
};

const failure = { since: z.iso.datetime(), failures: z.int(), error: z.string() };
const cursor = z.string().meta({ description: 'Deliveries go on after this event' });

export const WebhookFailingData = z
  .strictObject({ ...fields, ...failure, cursor })
  .meta({ id: 'WebhookFailing', description: 'Deliveries have failed for an hour, and are repeated; nothing is left out' });

export const WebhookDisabledData = z
  .strictObject({
    ...fields,
    reason: z.enum(webhookDisabledReasons),
    since: failure.since.nullable(),
    failures: failure.failures,
    error: failure.error.nullable(),
    cursor,
  })
  .meta({
    id: 'WebhookDisabled',
    description: 'No deliveries are made from now on. When it is activated, they go on after `cursor`, as far as events are kept',
  });

export const WebhookMissedData = z
  .strictObject({
    ...fields,
    after: z.string(),
    through: z.string().meta({ description: 'Deliveries go on after this event' }),
  })
  .meta({
    id: 'WebhookMissed',
    description: 'Events after `after` were kept no more before they were delivered: those through `through` are missing',
  });

export const WebhookTestData = z
  .strictObject({ ...fields, by: z.string().meta({ description: 'The API key' }) })
  .meta({ id: 'WebhookTest', description: 'Sent on request, to this endpoint alone' });

export const webhookEventData = {
  [webhookEventTypes.failing]: WebhookFailingData,
  [webhookEventTypes.disabled]: WebhookDisabledData,
  [webhookEventTypes.missed]: WebhookMissedData,
  [webhookEventTypes.test]: WebhookTestData,
};
