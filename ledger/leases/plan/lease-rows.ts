import { Prisma } from '../../../generated/prisma/client.ts';
import { isOpen } from '../../hosts/open-hosts.ts';
import { liesUnpaid } from '../../market/unpaid.ts';
import { hostCostsOf } from '../../offers/host-costs.ts';

/** Parts of the statements that read leases for a plan, and read some of them again when it is applied. */

/** All hosts as one text (hostsOf of site-columns.ts), not as objects, which take several times as long for a thousand of them. */
export const hostsColumn = Prisma.sql`(
  SELECT string_agg(concat_ws(' ', h.id, h.vcpus, h."memoryMiB", h."diskMiB", h."usedVcpus", h."usedMemoryMiB", h."usedDiskMiB",
    (h.state = 'up')::int, ${isOpen}::int, h.slowness, h.allocations), ' ' ORDER BY h.id) FROM "Host" h WHERE h."removedAt" IS NULL)`;

/** `drained`: VMs that drains will move, and their targets. */
export const drainedPart = Prisma.sql`drained AS MATERIALIZED (
  SELECT m.vm, m."to" AS host FROM "Drain" d JOIN "Vm" v ON v."hostId" = d."hostId",
    jsonb_to_recordset(d.plan->'moves') AS m(vm text, "to" text)
  WHERE d.state IN ('waiting', 'moving', 'paused') AND v.id = m.vm
)`;

/**
 * `open` and `vms`: the leases of the part `listed` that have VMs on hosts, or are wanted; of best effort that waits those of
 * the part `waiting`. Without work that lies suspended because its money has ended: what it takes is `taken`.
 */
export const openPart = Prisma.sql`open AS MATERIALIZED (
  SELECT l.id, l."ownerId", l.kind, l."createdAt", l."durationS", l.priority, l.preemptible, l."startAt", l."plannedHosts", l.bound,
    l."startedAt", l."runFrom", l."leftS", l.suspension, l.operation, l.market, t.id AS "taskId", t.state AS "taskState", t.refusal FROM "Lease" l LEFT JOIN "Task" t ON t."leaseId" = l.id
  WHERE l.id IN (SELECT id FROM listed) AND l."endedAt" IS NULL AND NOT ${liesUnpaid}
    AND (l."startedAt" IS NOT NULL OR (t."cancelRequestedAt" IS NULL AND NOT EXISTS (
      SELECT FROM "Vm" w WHERE w."leaseId" = l.id AND w."removalRequestedAt" IS NOT NULL AND w.state <> 'removed')))
    AND (l."startedAt" IS NOT NULL OR l."startAt" IS NOT NULL OR l.id IN (SELECT id FROM waiting))
), vms AS (
  SELECT o.id AS lease, jsonb_agg(jsonb_build_object('id', v.id, 'generation', v.generation, 'state', v.state,
    'host', COALESCE(g.host, v."hostId"), 'home', v."homeId", 'migration', (SELECT jsonb_build_object('to', m."toId") FROM "Migration" m
      WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')), 'vcpus', v.vcpus, 'memoryMiB', v."memoryMiB",
    'diskMiB', v."diskMiB" + v."overlayMiB", 'image', v."imageId",
    'imageMiB', COALESCE((SELECT i."sizeBytes" / 1048576.0 FROM "Image" i WHERE i.id = v."imageId"), 0)) ORDER BY v.node, v.id) AS vms, jsonb_agg(v.rules) -> 0 AS rules
  FROM open o JOIN "Vm" v ON v."leaseId" = o.id AND v.state <> 'removed'
  LEFT JOIN drained g ON g.vm = v.id AND v.state = 'running'
  GROUP BY o.id
)`;

/** Them as objects (LeaseRow of site-row.ts). */
export const leaseObjects = Prisma.sql`(SELECT jsonb_agg(jsonb_build_object('id', o.id, 'owner', o."ownerId", 'kind', o.kind,
    'submittedAtS', EXTRACT(EPOCH FROM o."createdAt"), 'durationS', o."durationS", 'priority', o.priority,
    'preemptible', o.preemptible, 'startAtS', EXTRACT(EPOCH FROM o."startAt"), 'plannedHosts', o."plannedHosts",
    'bound', o.bound, 'startedAtS', EXTRACT(EPOCH FROM o."startedAt"), 'runFromS', EXTRACT(EPOCH FROM o."runFrom"),
    'leftS', o."leftS", 'suspension', o.suspension, 'operation', o.operation, 'taskId', o."taskId",
    'taskState', o."taskState", 'refusal', o.refusal, 'rules', v.rules, 'hostCosts', ${hostCostsOf(Prisma.sql`o`)}, 'vms', v.vms) ORDER BY o."createdAt", o.id)
  FROM open o JOIN vms v ON v.lease = o.id)`;
