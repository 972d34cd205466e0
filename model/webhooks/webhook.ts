import { z } from 'zod';
import type { Id } from '../ids.ts';

export type WebhookId = Id<'webhook'>;

export const webhookStates = ['active', 'disabled'] as const;
export type WebhookState = (typeof webhookStates)[number];

/** Why no deliveries are made: its owner said so, its receiver answered 410, or it failed for too long. */
export const webhookDisabledReasons = ['owner', 'gone', 'failing'] as const;
export type WebhookDisabledReason = (typeof webhookDisabledReasons)[number];

/** Each event is compared with each of them. */
export const maxWebhookTypes = 32;
const maxUrlLength = 2048;

/** A type of event, such as `berth.task.succeeded`, or all whose names begin alike: `berth.task.*`. */
export const WebhookType = z
  .string()
  .max(128)
  .regex(/^berth(\.[A-Za-z0-9]+)*(\.\*)?$/, { error: 'expected a type such as berth.task.succeeded, or berth.task.*' });

/**
 * The URL of an endpoint: http or https, without a user, a password or a fragment. Control characters and spaces, which parsers
 * of URLs drop silently, are refused.
 */
export const WebhookUrl = z
  .string()
  .max(maxUrlLength)
  .regex(/^https?:\/\/[\x21-\x7e]+$/i, { error: 'expected an http or https URL of visible ASCII characters', abort: true })
  .refine((text) => URL.canParse(text), { error: 'expected a URL', abort: true })
  .refine((text) => hasNoSecret(new URL(text)), { error: 'expected a URL without a user, a password and a fragment' });

const hasNoSecret = ({ username, password, hash }: URL): boolean => username === '' && password === '' && hash === '';

/** The path and the query may be a secret of the receiver: what is logged and told has the origin alone. */
export const originOf = (url: string): string => new URL(url).origin;

/** What decides which events an endpoint is sent. */
export interface WebhookFilter {
  id: string;
  ownerId: string;
  /** Events of every owner. */
  site: boolean;
  /** None: all types. */
  types: readonly string[];
}

/** Types of which an endpoint gets those about itself alone, whatever its filter is. */
export const webhookOwnTypes = { missed: 'berth.webhook.missed', test: 'berth.webhook.test' } as const;

/** Whether an endpoint is sent an event. */
export function isForWebhook(filter: WebhookFilter, event: { type: string; subject: string; ownerId: string }): boolean {
  if (!filter.site && event.ownerId !== filter.ownerId) return false;
  if (event.type === webhookOwnTypes.test) return event.subject === filter.id;
  if (event.type === webhookOwnTypes.missed && event.subject === filter.id) return true;
  return filter.types.length === 0 || filter.types.some((type) => matches(type, event.type));
}

const matches = (filter: string, type: string): boolean =>
  filter.endsWith('*') ? type.startsWith(filter.slice(0, -1)) : type === filter;
