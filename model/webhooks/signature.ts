import { createHmac, randomBytes } from 'node:crypto';

/** Standard Webhooks 1.0: `whsec_` and the base64 of the key's bytes. */
const prefix = 'whsec_';
const newBytes = 32;
const leastBytes = 24;
const mostBytes = 64;

export const newWebhookSecret = (): string => `${prefix}${randomBytes(newBytes).toString('base64')}`;

/** The key in a secret; null where it is none: of another length, or not the one base64 of its bytes. */
export function webhookKeyOf(secret: string): Buffer | null {
  if (!secret.startsWith(prefix) || secret.length > 128) return null;
  const text = secret.slice(prefix.length);
  const key = Buffer.from(text, 'base64');
  return key.length >= leastBytes && key.length <= mostBytes && key.toString('base64') === text ? key : null;
}

/** One request to an endpoint, as it is signed. */
export interface WebhookMessage {
  /** The same for each attempt and each endpoint. */
  id: string;
  body: string;
}

/**
 * The headers of a delivery by Standard Webhooks: one signature of each secret, so that a receiver that has any of them takes it.
 * @param timestampS of this attempt, seconds since 1970
 */
export function webhookHeaders(
  { id, body }: WebhookMessage,
  timestampS: number,
  keys: readonly Buffer[],
): { 'webhook-id': string; 'webhook-timestamp': string; 'webhook-signature': string } {
  const signed = `${id}.${timestampS}.${body}`;
  const signatures = keys.map((key) => `v1,${createHmac('sha256', key).update(signed).digest('base64')}`);
  return { 'webhook-id': id, 'webhook-timestamp': String(timestampS), 'webhook-signature': signatures.join(' ') };
}
