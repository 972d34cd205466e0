import { z } from 'zod';
import { webhookKeyOf } from '../../model/webhooks/signature.ts';
import { maxWebhookTypes, WebhookType, WebhookUrl, webhookDisabledReasons, webhookStates } from '../../model/webhooks/webhook.ts';
import { sequence, time } from './common.ts';

const secret = z
  .string()
  .max(128)
  .refine((text) => webhookKeyOf(text) !== null, { error: 'expected whsec_ and the base64 of 24 to 64 bytes' });

const types = z
  .array(WebhookType)
  .max(maxWebhookTypes)
  .meta({ description: 'Types of events, or their begins such as berth.task.*; none: all', example: ['berth.task.*'] });

const description = z.string().max(256).meta({ description: 'For its owner' });
const url = WebhookUrl.meta({ description: 'Where deliveries are sent to, by POST', example: 'https://example.net/berth' });

export const WebhookOrder = z
  .strictObject({
    url,
    description: description.default(''),
    types: types.default([]),
    scope: z
      .enum(['owner', 'site'])
      .default('owner')
      .meta({ description: "`site`: events of every owner, for operators' keys; `owner`: of the key's owner" }),
    after: sequence
      .optional()
      .meta({ description: 'Events after this one are delivered; without it, those that come from now on' }),
    secret: secret.optional().meta({ description: 'A secret of the caller; without it, the site makes one' }),
  })
  .meta({ id: 'WebhookOrder' });

export const WebhookChange = z
  .strictObject({
    url: url.optional(),
    description: description.optional(),
    types: types.optional(),
    state: z.enum(webhookStates).optional().meta({ description: '`active`: deliveries go on after its cursor' }),
  })
  .meta({ id: 'WebhookChange' });

const Secret = z.strictObject({
  id: z.string(),
  createdAt: time,
  expiresAt: time.nullable().meta({ description: 'Deliveries are signed by it until then; null: it has no end' }),
});

const shown = {
  id: z.string(),
  owner: z.string(),
  url: z.string(),
  description: z.string(),
  types: z.array(z.string()),
  scope: z.enum(['owner', 'site']),
  state: z.enum(webhookStates),
  disabledReason: z
    .enum(webhookDisabledReasons)
    .nullable()
    .meta({ description: '`owner`: on request; `gone`: its receiver answered 410; `failing`: for five days' }),
  disabledAt: time.nullable(),
  cursor: z.string().meta({ description: 'Events up to it were delivered, or are not for it' }),
  failures: z.int().meta({ description: 'Attempts that have failed since the last that did not' }),
  failingSince: time.nullable(),
  lastError: z.string().nullable(),
  retryAt: time.nullable().meta({ description: 'When the next attempt is made; null: none has failed' }),
  deliveredAt: time.nullable().meta({ description: 'When an event was taken last' }),
  secrets: z.array(Secret).meta({ description: 'What deliveries are signed by, newest first' }),
  createdAt: time,
};

export const Webhook = z.strictObject(shown).meta({ id: 'Webhook', description: 'An endpoint that events are sent to' });

const newSecret = z
  .string()
  .nullable()
  .meta({ description: 'Shown once; null in the answer to a repeated request, as the site does not keep it in the clear' });

export const NewWebhook = z.strictObject({ ...shown, secret: newSecret }).meta({ id: 'NewWebhook' });

export const SecretOrder = z
  .strictObject({
    secret: secret.optional().meta({ description: 'A secret of the caller; without it, the site makes one' }),
    keepOthersS: z
      .int()
      .min(0)
      .max(30 * 86_400)
      .default(86_400)
      .meta({ description: 'Seconds for which deliveries are signed by the other secrets as well' }),
  })
  .meta({ id: 'WebhookSecretOrder' });

export const NewSecret = z.strictObject({ id: z.string(), secret: newSecret, createdAt: time }).meta({ id: 'NewWebhookSecret' });

export const ReplayOrder = z
  .strictObject({ after: sequence.meta({ description: 'Events after this one are delivered, again where they were before' }) })
  .meta({ id: 'WebhookReplayOrder' });

export const Delivery = z
  .strictObject({
    n: z.string().meta({ description: 'Counts the attempts of this webhook' }),
    sequence: z.string().meta({ description: "The event's" }),
    event: z.string(),
    type: z.string(),
    taken: z.boolean(),
    status: z.int().nullable().meta({ description: 'Of the answer; null: there was none' }),
    error: z.string().nullable(),
    ms: z.int(),
    at: time,
  })
  .meta({ id: 'WebhookDelivery', description: 'One attempt to deliver an event' });
