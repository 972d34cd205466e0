import { Prisma } from '../../generated/prisma/client.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';
import { shownWebhook, type WebhookRecord, webhookOf } from './webhook-row.ts';

/** A page and one row more, newest first. @param owner whose; null: every owner's */
export async function readWebhooks(ledger: Ledger, owner: string | null, page: PageRequest): Promise<WebhookRecord[]> {
  const rows = await ledger.webhook.findMany({ ...pageQuery(page, { ownerId: owner ?? undefined }), select: shownWebhook });
  return rows.map(webhookOf);
}

/** One attempt to deliver an event. */
export interface DeliveryRecord {
  /** Counts the attempts of a webhook. */
  n: bigint;
  seq: bigint;
  eventId: string;
  type: string;
  /** Of the answer; null: there was none. */
  status: number | null;
  /** null: it was taken. */
  error: string | null;
  ms: number;
  at: Date;
}

/** The last attempts of a webhook and one more, newest first. @param before null: from the last on */
export async function readDeliveries(
  ledger: Ledger,
  webhookId: string,
  { limit, before }: { limit: number; before: bigint | null },
): Promise<DeliveryRecord[]> {
  return ledger.webhookDelivery.findMany({
    where: { webhookId, ...(before !== null && { n: { lt: before } }) },
    orderBy: { n: 'desc' },
    take: limit + 1,
    select: { n: true, seq: true, eventId: true, type: true, status: true, error: true, ms: true, at: true },
  });
}

/** Webhooks for metrics. */
export interface WebhookCounts {
  state: 'active' | 'failing' | 'disabled';
  rows: number;
  /** Since when the one that fails longest does, in seconds. */
  failingS: number;
}

export async function readWebhookCounts(ledger: Ledger, nowMs: number): Promise<WebhookCounts[]> {
  return ledger.$queryRaw<WebhookCounts[]>(Prisma.sql`
    SELECT state, count(*)::int AS rows, COALESCE(max(EXTRACT(EPOCH FROM ${new Date(nowMs)}::timestamptz - since)), 0)::float8 AS "failingS"
    FROM (SELECT CASE WHEN state = 'disabled' THEN 'disabled' WHEN "failingSince" IS NULL THEN 'active' ELSE 'failing' END AS state,
        CASE WHEN state = 'active' THEN "failingSince" END AS since FROM "Webhook") w
    GROUP BY state`);
}
