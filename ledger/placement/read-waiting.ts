import { z } from 'zod';
import { Prisma } from '../../generated/prisma/client.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { liesUnpaid } from '../market/unpaid.ts';
import { hostCostsOf } from '../offers/host-costs.ts';
import { idOf, listOf, refusal, resources } from '../row-schemas.ts';
import type { Transaction } from '../transaction.ts';
import { storedRules } from './read-rules.ts';

/** How many waiting tasks one pass considers; the rest of the queue waits for a later pass. */
export const lookahead = 256;

const waiterId = idOf<TaskId | VmId>();

const QueueRow = z.strictObject({
  id: waiterId,
  owner: idOf<string>(),
  overtaken: z.int().min(0),
  refusal: refusal.nullable(),
  imageId: z.string().nullable(),
  each: resources,
  vms: z.array(z.strictObject({ id: idOf<string>(), generation: z.int().min(0) })).min(1),
  /** By host, of what pays by offers: hosts that are missing are not for it. null: any host is. */
  hostCosts: z.record(z.string(), z.number()).nullable(),
  rules: storedRules,
});

const WaitingQueue = z.strictObject({
  /** There are promises to keep, or work to resume: the planner places. */
  planned: z.boolean(),
  /** How many the site has. */
  hosts: z.number(),
  queue: listOf(QueueRow, lookahead),
  /** Placed by an earlier pass, and not begun yet. */
  placed: listOf(waiterId),
});

type WaitingQueue = z.infer<typeof WaitingQueue>;
/** A task with its VMs, or a standalone VM. */
export type QueueRow = z.infer<typeof QueueRow>;

const planExists = (now: string): Prisma.Sql => Prisma.sql`(
  EXISTS (SELECT FROM "Lease" WHERE "startAt" IS NOT NULL AND "startedAt" IS NULL AND "endedAt" IS NULL)
  OR EXISTS (SELECT FROM "Lease" l WHERE l.suspension IS NOT NULL AND l."endedAt" IS NULL AND NOT ${liesUnpaid})
  OR EXISTS (SELECT FROM "Host" WHERE "vacantUntil" > ${now}::timestamptz))`;

/** Whether there are promises to keep, or work to resume: then the planner places. */
export async function isPlanned(tx: Transaction, now: string): Promise<boolean> {
  const rows = await tx.$queryRaw<{ planned: boolean }[]>`SELECT ${planExists(now)} AS planned`;
  return rows[0]!.planned;
}

/**
 * Reads what waits, and what was placed and has not begun, in one statement: all that a pass reads where nothing waits. A
 * task that waits has all its VMs pending; one whose VMs were released already is about to end.
 */
export async function readWaiting(tx: Transaction, now: string): Promise<WaitingQueue> {
  const rows = await tx.$queryRaw<unknown[]>`
    WITH waiting AS (
      SELECT id, "ownerId", overtaken, refusal, "createdAt", "leaseId" FROM "Task"
      WHERE state = 'queued' AND "placedAt" IS NULL AND "cancelRequestedAt" IS NULL
      UNION ALL
      SELECT id, "ownerId", overtaken, refusal, "createdAt", "leaseId" FROM "Vm"
      WHERE "order" IS NOT NULL AND state = 'pending' AND "removalRequestedAt" IS NULL
      ORDER BY "createdAt", id LIMIT ${lookahead}
    )
    SELECT
      ${planExists(now)} AS planned,
      (SELECT count(*)::int FROM "Host" WHERE "removedAt" IS NULL) AS hosts,
      (SELECT jsonb_agg(jsonb_build_object('id', t.id, 'owner', t."ownerId", 'overtaken', t.overtaken, 'refusal', t.refusal,
        'imageId', v.image, 'vms', v.vms, 'rules', v.rules, 'hostCosts', (SELECT ${hostCostsOf(Prisma.sql`l`)} FROM "Lease" l WHERE l.id = t."leaseId"),
        'each', jsonb_build_object('vcpus', v.vcpus, 'memoryMiB', v.memory, 'diskMiB', v.disk)) ORDER BY t."createdAt", t.id)
      FROM waiting t JOIN LATERAL (
        SELECT max("imageId") AS image, max(vcpus) AS vcpus, max("memoryMiB") AS memory, max("diskMiB" + "overlayMiB") AS disk,
          jsonb_agg(jsonb_build_object('id', id, 'generation', generation) ORDER BY node) AS vms, jsonb_agg(rules) -> 0 AS rules
        FROM "Vm" WHERE "taskId" = t.id OR id = t.id HAVING bool_and(state = 'pending')) v ON true) AS queue,
      (SELECT jsonb_agg(id) FROM (
        SELECT id FROM "Task" WHERE state = 'queued' AND "placedAt" IS NOT NULL AND "cancelRequestedAt" IS NULL
        UNION ALL SELECT id FROM "Vm" WHERE "order" IS NOT NULL AND state = 'reserved' AND "removalRequestedAt" IS NULL
      ) AS waiter) AS placed`;
  return WaitingQueue.parse(rows[0]);
}
