import { Prisma } from '../../../generated/prisma/client.ts';
import { takesWork } from '../../hosts/open-hosts.ts';
import type { Transaction } from '../../transaction.ts';
import { drainedPart, hostsColumn, leaseObjects, openPart } from './lease-rows.ts';
import type { SiteRead, SiteScope } from './ledger-site.ts';

/** How many waiting best-effort leases a plan considers; the rest wait for a later plan. */
const lookahead = Prisma.raw('256');
/** Number of recent leases whose lead and tail are read. */
const recentLeases = Prisma.raw('96');
/** Number of recent boots by which is decided whether VMs of a kind start from a template. */
const recentBoots = Prisma.raw('512');

/**
 * The statement's texts differ by what is read, and have no parameters but hosts: so PostgreSQL keeps one plan for each, which
 * takes it as long to make as a third of the reading.
 */
const allUnderWay = Prisma.sql`UNION SELECT id FROM "Lease" WHERE "startedAt" IS NOT NULL AND "endedAt" IS NULL`;

/** Parts and columns of the statement below. */
interface UnderWay {
  parts: Prisma.Sql;
  columns: Prisma.Sql;
}

/** Work under way that is no lease of the plan as VMs with their ends, and what has no end. */
const takenUntilItsEnd: UnderWay = {
  parts: Prisma.sql`live AS MATERIALIZED (
      SELECT v.id, v."hostId" AS host, v.vcpus, v."memoryMiB" AS memory, v."diskMiB" + v."overlayMiB" AS disk, v.state, v."taskId" IS NOT NULL AS "ofTask",
        l.id AS lease, date_part('epoch', l."runFrom") AS "from", COALESCE(l."leftS", l."durationS") AS "left", l.preemptible, l.suspension
      FROM "Vm" v LEFT JOIN "Lease" l ON l.id = v."leaseId" AND l."endedAt" IS NULL
      WHERE v.state NOT IN ('pending', 'removed')
    ), running AS (
      SELECT r.host, r.vcpus, r.memory, r.disk, r."ofTask", r."from", r."left", r.preemptible, r.state IN ('removing', 'stuck') AS leaving FROM live r
      WHERE r.lease IS NOT NULL AND r.lease NOT IN (SELECT id FROM listed WHERE id IS NOT NULL)
    ),`,
  columns: Prisma.sql`
      (SELECT jsonb_build_object('host', string_agg(host, ' '), 'vcpus', string_agg(vcpus::text, ' '), 'memoryMiB', string_agg(memory::text, ' '),
        'diskMiB', string_agg(disk::text, ' '), 'runFromS', string_agg((CASE WHEN leaving THEN 0 ELSE "from" END)::text, ' '),
        'leftS', string_agg((CASE WHEN leaving THEN 0 ELSE "left" END)::text, ' '),
        'preemptible', string_agg((preemptible AND "ofTask" AND NOT leaving)::int::text, ' '))
       FROM running HAVING count(*) > 0) AS running,
      (SELECT jsonb_agg(jsonb_build_object('host', u.host, 'each', jsonb_build_object('vcpus', u.vcpus, 'memoryMiB', u.memory,
        'diskMiB', u.disk))) FROM (
        SELECT k.host, k.vcpus, k.memory, k.disk FROM "Vm" v, berth_taken(v) k
        WHERE v.id IN (SELECT id FROM live WHERE lease IS NULL OR suspension = 'suspended')
        UNION ALL SELECT m."toId", m.vcpus, m."memoryMiB", 0 FROM "Migration" m WHERE m.reserved
        UNION ALL SELECT f."hostId", f.vcpus, f."memoryMiB", f."diskMiB" FROM "Fence" f
      ) u) AS taken,
      NULL::jsonb AS "listedUse"`,
};

/** All of it without an end: the hosts' sums, less what the plan has as leases. */
const takenForEver: UnderWay = {
  parts: Prisma.empty,
  columns: Prisma.sql`
      NULL::jsonb AS running, NULL::jsonb AS taken,
      (SELECT jsonb_agg(jsonb_build_object('host', k.host, 'each', jsonb_build_object('vcpus', k.vcpus, 'memoryMiB', k.memory, 'diskMiB', k.disk)))
       FROM open o JOIN "Vm" v ON v."leaseId" = o.id, berth_taken(v) k
       WHERE o.suspension IS DISTINCT FROM 'suspended') AS "listedUse"`,
};

/**
 * Reads all that a plan is made from in one statement, and so at one moment: leases that are wanted or have VMs, of those
 * of best effort that wait the oldest. A VM that a drain will move counts on its target already: the capacity there must
 * not be promised to others before the VM arrives.
 */
export async function readSite(tx: Transaction, scope: SiteScope): Promise<SiteRead> {
  const { hosts, others } = scope;
  const underWay = others === 'forever' ? takenForEver : takenUntilItsEnd;
  const rows = await tx.$queryRaw<unknown[]>`
    WITH ${drainedPart}, concerned AS MATERIALIZED (
      SELECT unnest("plannedHosts") AS host FROM "Lease" WHERE "startAt" IS NOT NULL AND "startedAt" IS NULL AND "endedAt" IS NULL
      UNION SELECT id FROM "Host" WHERE "vacantUntil" IS NOT NULL
      ${hosts.length === 0 ? Prisma.empty : Prisma.sql`UNION SELECT unnest(${[...hosts]}::text[])`}
    ), waiting AS MATERIALIZED (
      SELECT l.id FROM "Lease" l LEFT JOIN "Task" t ON t."leaseId" = l.id
      WHERE l."endedAt" IS NULL AND l."startedAt" IS NULL AND l."startAt" IS NULL AND t."cancelRequestedAt" IS NULL
        AND NOT EXISTS (SELECT FROM "Vm" w WHERE w."leaseId" = l.id AND w."removalRequestedAt" IS NOT NULL AND w.state <> 'removed')
      ORDER BY l."createdAt", l.id LIMIT ${lookahead}
    ), listed AS MATERIALIZED (
      SELECT id FROM waiting
      UNION SELECT id FROM "Lease" WHERE "startAt" IS NOT NULL AND "endedAt" IS NULL
      UNION SELECT id FROM "Lease" WHERE suspension IS NOT NULL AND "endedAt" IS NULL
      -- Just placed: when their time begins is an estimate, or their workflow has not been notified.
      UNION SELECT id FROM "Lease" WHERE "startedAt" IS NOT NULL AND "runFrom" IS NULL AND "endedAt" IS NULL
      UNION SELECT "leaseId" FROM "Vm" WHERE state = 'reserved'
      UNION SELECT "leaseId" FROM "Vm" WHERE node > 0 AND state NOT IN ('pending', 'removed')
      UNION SELECT "leaseId" FROM "Vm" WHERE "hostId" IN (SELECT host FROM concerned) AND state NOT IN ('pending', 'removed')
      UNION SELECT v."leaseId" FROM drained g JOIN "Vm" v ON v.id = g.vm
      ${others === 'leases' ? allUnderWay : Prisma.empty}
    ), ${underWay.parts} ${openPart}
    SELECT
      ${hostsColumn} AS hosts,
      (SELECT jsonb_agg(jsonb_build_object('host', h.id, 'fromS', EXTRACT(EPOCH FROM h."vacantFrom"), 'untilS', EXTRACT(EPOCH FROM h."vacantUntil")))
       FROM "Host" h WHERE h."vacantUntil" IS NOT NULL) AS vacant,
      (SELECT jsonb_agg(jsonb_build_object('vm', vm, 'host', host)) FROM drained) AS arriving,
      ${leaseObjects} AS leases,
      (SELECT jsonb_object_agg(h.id, h.labels) FROM "Host" h WHERE h."removedAt" IS NULL AND h.labels <> '{}') AS labels,
      (SELECT jsonb_agg(jsonb_build_object('group', k.name, 'host', k.host, 'vms', k.vms)) FROM (
        SELECT g.name, v."hostId" AS host, count(*) AS vms FROM "Vm" v CROSS JOIN LATERAL unnest(v.groups) AS g(name)
        WHERE v.groups <> '{}' AND v.state NOT IN ('pending', 'removed') AND v."hostId" IS NOT NULL
          AND g.name IN (SELECT unnest(w.groups) FROM "Vm" w WHERE w.groups <> '{}' AND w.state IN ('pending', 'suspended'))
        GROUP BY g.name, v."hostId") k) AS members,
      ${underWay.columns},
      (SELECT jsonb_agg(i.image) FROM (
        SELECT c."imageId" AS image FROM "HostImage" c JOIN "Host" h ON h.id = c."hostId" AND ${takesWork} GROUP BY c."imageId"
        HAVING count(*) = (SELECT count(*) FROM "Host" h WHERE ${takesWork})) i) AS "cachedEverywhere",
      (SELECT jsonb_agg(jsonb_build_object('leadMs', m."leadMs", 'tailMs', m."tailMs", 'promised', m."startAt" IS NOT NULL,
        'warm', m.warm) ORDER BY m."startedAt" DESC) FROM (
        SELECT l."leadMs", l."tailMs", l."startAt", l."startedAt",
          (SELECT COALESCE(bool_and(v.boot = 'warm'), false) FROM "Vm" v WHERE v."leaseId" = l.id) AS warm
        FROM "Lease" l WHERE l."leadMs" IS NOT NULL ORDER BY l."startedAt" DESC LIMIT ${recentLeases}) m) AS measured,
      (SELECT jsonb_agg(jsonb_build_object('host', b.host, 'image', b.image, 'vcpus', b.vcpus, 'memoryMiB', b.memory)) FROM (
        SELECT DISTINCT ON (n."hostId", n."imageId", n.vcpus, n."memoryMiB") n."hostId" AS host, n."imageId" AS image, n.vcpus,
          n."memoryMiB" AS memory, n.boot
        FROM (SELECT id, "hostId", "imageId", vcpus, "memoryMiB", boot, "placedAt" FROM "Vm" WHERE boot IS NOT NULL AND "placedAt" IS NOT NULL
          ORDER BY "placedAt" DESC
          -- Of a kind that starts from templates everywhere every host has a last start: more hosts than starts have none.
          LIMIT CASE WHEN (SELECT count(*) FROM "Host" h WHERE ${takesWork}) > ${recentBoots} THEN 0 ELSE ${recentBoots} END) n
        -- Not as a join, for which all migrations would be read.
        WHERE (SELECT m.id FROM "Migration" m WHERE m."vmId" = n.id AND m."committedAt" IS NOT NULL LIMIT 1) IS NULL
        ORDER BY n."hostId", n."imageId", n.vcpus, n."memoryMiB", n."placedAt" DESC) b WHERE b.boot = 'warm') AS warm`;
  return { row: rows[0], scope };
}
