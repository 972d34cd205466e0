import { Prisma } from '../../generated/prisma/client.ts';
import type { WebhookId } from '../../model/webhooks/webhook.ts';
import type { Ledger } from '../client.ts';
import { isoOf } from '../transaction.ts';

/** How many workflows one round wakes. */
export const wakeBatch = 100;
/** Within which deliveries must have begun, before their workflow is woken again: the signal may have been lost. */
const wakeGraceMs = 10_000;

/** Whether there are events for the endpoint `w` after its cursor: as isForWebhook has it, and some of its own events more. */
const hasEvents = Prisma.sql`EXISTS (SELECT FROM "Event" e WHERE e.seq > w.cursor AND (w.site OR e."ownerId" = w."ownerId")
  AND (cardinality(w.types) = 0 OR e.subject = w.id OR e.type = ANY (w.types)
    OR EXISTS (SELECT FROM unnest(w.types) t WHERE right(t, 1) = '*' AND starts_with(e.type, left(t, -1)))))`;

/**
 * The endpoints whose workflows have to begin deliveries: those that wait and have events, and those that should have begun or gone on
 * by now: their workflow was ended from outside, or a signal was lost. They are not named again for some seconds.
 * @param owners whose events are new; null: all endpoints are looked at
 */
export async function wakeWebhooks(ledger: Ledger, owners: readonly string[] | null, nowMs: number): Promise<WebhookId[]> {
  const of = owners === null ? Prisma.sql`TRUE` : Prisma.sql`(w.site OR w."ownerId" = ANY (${[...owners]}::text[]))`;
  const now = isoOf(nowMs);
  const rows = await ledger.$queryRaw<{ id: WebhookId }[]>`
    UPDATE "Webhook" SET "dueAt" = ${isoOf(nowMs + wakeGraceMs)}::timestamptz WHERE id IN (
      SELECT w.id FROM "Webhook" w
      WHERE w.state = 'active' AND (w."dueAt" <= ${now}::timestamptz OR (w."dueAt" IS NULL AND ${of} AND ${hasEvents}))
      ORDER BY w.id LIMIT ${wakeBatch} FOR UPDATE SKIP LOCKED)
    RETURNING id`;
  return rows.map(({ id }) => id);
}

/**
 * Moves the cursors of endpoints that wait to the newest event, where none before it is for them: retention passes no cursor that
 * nothing was kept from. Events become visible in the order of their numbers.
 */
export async function advanceIdleWebhooks(ledger: Ledger): Promise<number> {
  const rows = await ledger.$queryRaw<{ last: bigint | null }[]>`SELECT max(seq) AS last FROM "Event" WHERE seq > 0`;
  const last = rows[0]?.last ?? null;
  if (last === null) return 0;
  return ledger.$executeRaw`
    UPDATE "Webhook" SET cursor = ${last} WHERE id IN (
      SELECT w.id FROM "Webhook" w
      WHERE w.state = 'active' AND w."dueAt" IS NULL AND w.cursor < ${last} AND NOT ${hasEvents}
      ORDER BY w.id FOR UPDATE SKIP LOCKED)`;
}

/** Whether any deliveries are to be made. */
export async function anyActiveWebhook(ledger: Ledger): Promise<boolean> {
  return (await ledger.webhook.findFirst({ where: { state: 'active' }, select: { id: true } })) !== null;
}

/** The epochs of these endpoints now; one that was removed is not among them. */
export async function readEpochs(ledger: Ledger, ids: readonly string[]): Promise<Map<string, number>> {
  const rows = await ledger.webhook.findMany({ where: { id: { in: [...ids] } }, select: { id: true, epoch: true } });
  return new Map(rows.map(({ id, epoch }) => [id, epoch]));
}
