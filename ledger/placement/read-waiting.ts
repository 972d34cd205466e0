import { z } from 'zod';
import type { TaskId, VmId } from '../../model/ids.ts';
import { idOf, listOf, refusal, resources } from '../row-schemas.ts';
import type { Transaction } from '../transaction.ts';

/** How many waiting tasks one pass considers; the rest of the queue waits for a later pass. */
export const lookahead = 256;

const waiterId = idOf<TaskId | VmId>();

const HostRow = z.strictObject({
  id: idOf<string>(),
  state: z.enum(['up', 'unknown']),
  schedulable: z.boolean(),
  capacity: resources,
  used: resources,
  images: z.array(z.string()),
});

const QueueRow = z.strictObject({
  id: waiterId,
  owner: idOf<string>(),
  overtaken: z.int().min(0),
  refusal: refusal.nullable(),
  imageId: z.string().nullable(),
  each: resources,
  vms: z.array(z.strictObject({ id: idOf<string>(), generation: z.int().min(0) })).min(1),
});

const NetworkRow = z.strictObject({ owner: idOf<string>(), cidr: z.string(), taken: z.array(z.string()) });

const WaitingQueue = z.strictObject({
  /** There are promises to keep, or work to resume: the planner places. */
  planned: z.boolean(),
  hosts: listOf(HostRow),
  queue: listOf(QueueRow, lookahead),
  /** The networks of the owners in the queue that have one, with the addresses in use there. */
  networks: listOf(NetworkRow),
  /** Placed by an earlier pass, and not begun yet. */
  placed: listOf(waiterId),
});

type WaitingQueue = z.infer<typeof WaitingQueue>;
export type HostRow = z.infer<typeof HostRow>;
/** A task with its VMs, or a standalone VM. */
export type QueueRow = z.infer<typeof QueueRow>;
export type NetworkRow = z.infer<typeof NetworkRow>;

/**
 * Reads all that a placement pass needs in one statement. A task that waits has all its VMs pending; one whose VMs were
 * released already is about to end.
 */
export async function readWaiting(tx: Transaction, now: string): Promise<WaitingQueue> {
  const rows = await tx.$queryRaw<unknown[]>`
    WITH waiting AS (
      SELECT id, "ownerId", overtaken, refusal, "createdAt" FROM "Task"
      WHERE state = 'queued' AND "placedAt" IS NULL AND "cancelRequestedAt" IS NULL
      UNION ALL
      SELECT id, "ownerId", overtaken, refusal, "createdAt" FROM "Vm"
      WHERE "order" IS NOT NULL AND state = 'pending' AND "removalRequestedAt" IS NULL
      ORDER BY "createdAt", id LIMIT ${lookahead}
    )
    SELECT
      EXISTS (SELECT FROM "Lease" WHERE "startAt" IS NOT NULL AND "startedAt" IS NULL AND "endedAt" IS NULL)
        OR EXISTS (SELECT FROM "Lease" WHERE suspension IS NOT NULL AND "endedAt" IS NULL)
        OR EXISTS (SELECT FROM "Host" WHERE "vacantUntil" > ${now}::timestamptz) AS planned,
      (SELECT jsonb_agg(jsonb_build_object('id', h.id, 'state', h.state, 'schedulable', h.schedulable,
        'capacity', jsonb_build_object('vcpus', h.vcpus, 'memoryMiB', h."memoryMiB", 'diskMiB', h."diskMiB"),
        'used', jsonb_build_object('vcpus', h."usedVcpus", 'memoryMiB', h."usedMemoryMiB", 'diskMiB', h."usedDiskMiB"),
        'images', ARRAY(SELECT i."imageId" FROM "HostImage" i WHERE i."hostId" = h.id)))
      FROM "Host" h) AS hosts,
      (SELECT jsonb_agg(jsonb_build_object('id', t.id, 'owner', t."ownerId", 'overtaken', t.overtaken, 'refusal', t.refusal,
        'imageId', v.image, 'vms', v.vms,
        'each', jsonb_build_object('vcpus', v.vcpus, 'memoryMiB', v.memory, 'diskMiB', v.disk)) ORDER BY t."createdAt", t.id)
      FROM waiting t JOIN LATERAL (
        SELECT max("imageId") AS image, max(vcpus) AS vcpus, max("memoryMiB") AS memory, max("diskMiB" + "overlayMiB") AS disk,
          jsonb_agg(jsonb_build_object('id', id, 'generation', generation) ORDER BY node) AS vms
        FROM "Vm" WHERE "taskId" = t.id OR id = t.id HAVING bool_and(state = 'pending')) v ON true) AS queue,
      (SELECT jsonb_agg(jsonb_build_object('owner', n."ownerId", 'cidr', n.cidr, 'taken', ARRAY(
        SELECT v.address FROM "Vm" v
        WHERE v."ownerId" = n."ownerId" AND v.state NOT IN ('pending', 'removed') AND v.address IS NOT NULL)))
       FROM "Network" n WHERE n."ownerId" IN (SELECT "ownerId" FROM waiting)) AS networks,
      (SELECT jsonb_agg(id) FROM (
        SELECT id FROM "Task" WHERE state = 'queued' AND "placedAt" IS NOT NULL AND "cancelRequestedAt" IS NULL
        UNION ALL SELECT id FROM "Vm" WHERE "order" IS NOT NULL AND state = 'reserved' AND "removalRequestedAt" IS NULL
      ) AS waiter) AS placed`;
  return WaitingQueue.parse(rows[0]);
}
