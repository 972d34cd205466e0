import { createHash } from 'node:crypto';
import type { WebhookMessage } from './signature.ts';

/** An event as the ledger has it. */
interface PublishedEvent {
  seq: bigint;
  id: string;
  type: string;
  subject: string;
  ownerId: string;
  time: Date;
  data: unknown;
}

/** CloudEvents 1.0, structured. */
export function cloudEventOf(event: PublishedEvent) {
  return {
    specversion: '1.0' as const,
    id: event.id,
    source: '/berth',
    type: event.type,
    subject: event.subject,
    time: event.time.toISOString(),
    datacontenttype: 'application/json' as const,
    owner: event.ownerId,
    sequence: String(event.seq),
    data: event.data,
  };
}

/**
 * A CloudEvent as a webhook sends it, with the `timestamp` that Standard Webhooks has. The message's id is a digest of the event's:
 * the signature separates its parts by full stops, which event ids have.
 */
export function webhookMessageOf(event: { id: string; time: string }): WebhookMessage {
  const id = `msg_${createHash('sha256').update(event.id).digest('base64url').slice(0, 27)}`;
  return { id, body: JSON.stringify({ ...event, timestamp: event.time }) };
}
