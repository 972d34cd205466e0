import type { WebhookId } from '../../model/webhooks/webhook.ts';
import type { Ledger } from '../client.ts';
import { isoOf } from '../transaction.ts';
import { deliveryLeaseMs } from './begin-delivery.ts';

/** An attempt as it is recorded. */
export interface DeliveryAttempt {
  seq: bigint;
  eventId: string;
  type: string;
  status: number | null;
  error: string | null;
  ms: number;
  atMs: number;
}

/** What has become of an endpoint's deliveries since the last record. */
export interface DeliveryProgress {
  id: WebhookId;
  epoch: number;
  /** Events up to it are delivered, or not for this endpoint. */
  cursor: bigint;
  /** Attempts that were taken. */
  delivered: DeliveryAttempt[];
  /** There are no more events, and this process waits for none: another delivery begins when there are. */
  idle: boolean;
}

/** How many attempts of an endpoint are kept. */
export const keptDeliveries = 1000;

/**
 * Records what was delivered, of several endpoints in one statement: at hundreds of deliveries a second a transaction of each would
 * be most of their cost. @returns the ids of those that this process still delivers to
 */
export async function recordProgress(ledger: Ledger, progress: readonly DeliveryProgress[], nowMs: number): Promise<Set<string>> {
  const given = progress.map(({ id, epoch, cursor, delivered, idle }) => ({
    id,
    epoch,
    cursor: String(cursor),
    idle,
    tries: delivered.length,
  }));
  const made = progress.flatMap(({ id, delivered }) =>
    delivered.map(({ seq, eventId, type, status, ms, atMs }, index) => ({
      id,
      index: index + 1,
      seq: String(seq),
      eventId,
      type,
      status,
      ms,
      at: isoOf(atMs),
    })),
  );
  const now = isoOf(nowMs);
  const lease = isoOf(nowMs + deliveryLeaseMs);
  // In the order of their ids, as every statement locks them that takes several.
  const rows = await ledger.$queryRaw<{ id: string }[]>`
    WITH given AS (SELECT * FROM jsonb_to_recordset(${JSON.stringify(given)}::jsonb)
        AS g(id text, epoch int, cursor bigint, idle boolean, tries int)),
      held AS (SELECT w.id, w.attempts FROM "Webhook" w JOIN given g ON g.id = w.id AND g.epoch = w.epoch
        WHERE w.state = 'active' ORDER BY w.id FOR UPDATE OF w),
      changed AS (UPDATE "Webhook" w SET cursor = g.cursor, attempts = w.attempts + g.tries,
          "dueAt" = CASE WHEN g.idle THEN NULL ELSE ${lease}::timestamptz END,
          "deliveredAt" = CASE WHEN g.tries > 0 THEN ${now}::timestamptz ELSE w."deliveredAt" END,
          failures = CASE WHEN g.tries > 0 THEN 0 ELSE w.failures END,
          "failingSince" = CASE WHEN g.tries > 0 THEN NULL ELSE w."failingSince" END,
          "warnedAt" = CASE WHEN g.tries > 0 THEN NULL ELSE w."warnedAt" END,
          "retryAt" = CASE WHEN g.tries > 0 THEN NULL ELSE w."retryAt" END,
          "lastError" = CASE WHEN g.tries > 0 THEN NULL ELSE w."lastError" END
        FROM given g, held h WHERE g.id = h.id AND w.id = h.id
        RETURNING w.id),
      noted AS (INSERT INTO "WebhookDelivery" ("webhookId", n, seq, "eventId", type, status, ms, at)
        SELECT h.id, h.attempts + m.index, m.seq, m."eventId", m.type, m.status, m.ms, m.at
        FROM jsonb_to_recordset(${JSON.stringify(made)}::jsonb)
          AS m(id text, index int, seq bigint, "eventId" text, type text, status int, ms int, at timestamptz)
        JOIN held h ON h.id = m.id),
      forgotten AS (DELETE FROM "WebhookDelivery" d USING held h, given g
        WHERE d."webhookId" = h.id AND g.id = h.id AND d.n <= h.attempts + g.tries - ${keptDeliveries}::int)
    SELECT id FROM changed`;
  return new Set(rows.map(({ id }) => id));
}
