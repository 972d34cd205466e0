import type { Resources } from '../../model/host.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import type { TaskState, VmState } from '../../model/states.ts';
import type { Refusal } from '../../model/task.ts';
import type { LeasePhase, RunningVm, SiteFigures, SiteLease, SiteState } from '../../scheduler/leases/site/site-state.ts';
import { isOpen, takesWork } from '../hosts/open-hosts.ts';
import type { Transaction } from '../transaction.ts';
import { type LeadOf, leadEstimator, tailEstimateS } from './lead-times.ts';
import { hostsOf, runningVms, takenForEver } from './site-columns.ts';
import { type LeaseRow, SiteRow } from './site-row.ts';

/** How many waiting best-effort leases a plan considers; the rest wait for a later plan. */
const lookahead = 256;
/** Of a slow disk; the plan of a slower host adapts from its first suspension on. */
const suspendMiBPerS = 64;
/** Number of recent leases whose lead and tail are read. */
const recentLeases = 96;
/** Number of recent boots by which is decided whether VMs of a kind start from a template. */
const recentBoots = 512;

export interface LedgerLease extends SiteLease {
  owner: string;
  task: { id: TaskId; state: TaskState } | null;
  imageId: string | null;
  /** Why it still waits, as its row has it. */
  refusal: Refusal | null;
  vms: { id: VmId; generation: number; state: VmState }[];
}

/** The site as the ledger has it, for its plan. */
export interface LedgerSite extends SiteState {
  leases: LedgerLease[];
  running: RunningVm[];
  figures: SiteFigures;
  /** What VMs use of each host, by the ledger's own sums. */
  used: Map<string, Resources>;
  leadOf: LeadOf;
}

/**
 * What a plan is made from besides promises, what waits, and what is on the hosts of either, which are leases always.
 * `promises`: all else that is on a host is taken without an end. Hosts: all else is VMs with their ends, except that leases on
 * these hosts are leases too, which can be made to make way. `all`: all of it is leases.
 */
export type SiteScope = 'promises' | readonly string[] | 'all';

/**
 * Reads all that a plan is made from in one statement, and so at one moment: leases that are wanted or have VMs, of those
 * of best effort that wait the oldest. A VM that a drain will move counts on its target already: the capacity there must
 * not be promised to others before the VM arrives.
 */
export async function readSite(tx: Transaction, scope: SiteScope): Promise<LedgerSite> {
  const hosts = typeof scope === 'string' ? [] : [...scope];
  const rows = await tx.$queryRaw<unknown[]>`
    WITH drained AS MATERIALIZED (
      SELECT m.vm, m."to" AS host FROM "Drain" d JOIN "Vm" v ON v."hostId" = d."hostId",
        jsonb_to_recordset(d.plan->'moves') AS m(vm text, "to" text)
      WHERE d.state IN ('waiting', 'moving', 'paused') AND v.id = m.vm
    ), concerned AS MATERIALIZED (
      SELECT unnest("plannedHosts") AS host FROM "Lease" WHERE "startAt" IS NOT NULL AND "startedAt" IS NULL AND "endedAt" IS NULL
      UNION SELECT id FROM "Host" WHERE "vacantUntil" IS NOT NULL
      UNION SELECT unnest(${hosts}::text[])
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
      UNION SELECT id FROM "Lease" WHERE "startedAt" IS NOT NULL AND "endedAt" IS NULL AND ${scope === 'all'}
    ), live AS MATERIALIZED (
      SELECT v.id, v."hostId" AS host, v.vcpus, v."memoryMiB" AS memory, v."diskMiB" + v."overlayMiB" AS disk, v.state, v."taskId" IS NOT NULL AS "ofTask",
        l.id AS lease, date_part('epoch', l."runFrom") AS "from", COALESCE(l."leftS", l."durationS") AS "left", l.preemptible, l.suspension
      FROM "Vm" v LEFT JOIN "Lease" l ON l.id = v."leaseId" AND l."endedAt" IS NULL
      WHERE v.state NOT IN ('pending', 'removed') AND ${scope !== 'promises'}
    ), running AS (
      SELECT r.*, r.state IN ('removing', 'stuck') AS leaving FROM live r
      WHERE r.lease IS NOT NULL AND r.lease NOT IN (SELECT id FROM listed WHERE id IS NOT NULL)
    ), open AS MATERIALIZED (
      SELECT l.*, t.id AS "taskId", t.state AS "taskState", t.refusal FROM "Lease" l LEFT JOIN "Task" t ON t."leaseId" = l.id
      WHERE l.id IN (SELECT id FROM listed) AND l."endedAt" IS NULL
        AND (l."startedAt" IS NOT NULL OR (t."cancelRequestedAt" IS NULL AND NOT EXISTS (
          SELECT FROM "Vm" w WHERE w."leaseId" = l.id AND w."removalRequestedAt" IS NOT NULL AND w.state <> 'removed')))
        AND (l."startedAt" IS NOT NULL OR l."startAt" IS NOT NULL OR l.id IN (SELECT id FROM waiting))
    ), vms AS (
      SELECT o.id AS lease, jsonb_agg(jsonb_build_object('id', v.id, 'generation', v.generation, 'state', v.state,
        'host', COALESCE(g.host, v."hostId"), 'home', v."homeId", 'migration', (SELECT jsonb_build_object('to', m."toId") FROM "Migration" m
          WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')), 'vcpus', v.vcpus, 'memoryMiB', v."memoryMiB",
        'diskMiB', v."diskMiB" + v."overlayMiB", 'image', v."imageId",
        'imageMiB', COALESCE((SELECT i."sizeBytes" / 1048576.0 FROM "Image" i WHERE i.id = v."imageId"), 0)) ORDER BY v.node, v.id) AS vms
      FROM open o JOIN "Vm" v ON v."leaseId" = o.id AND v.state <> 'removed'
      LEFT JOIN drained g ON g.vm = v.id AND v.state = 'running'
      GROUP BY o.id
    )
    SELECT
      -- Columns, not objects, of what there is a row of for each host or VM.
      (SELECT jsonb_build_object('id', string_agg(h.id, ' '), 'vcpus', string_agg(h.vcpus::text, ' '),
        'memoryMiB', string_agg(h."memoryMiB"::text, ' '), 'diskMiB', string_agg(h."diskMiB"::text, ' '),
        'usedVcpus', string_agg(h."usedVcpus"::text, ' '), 'usedMemoryMiB', string_agg(h."usedMemoryMiB"::text, ' '),
        'usedDiskMiB', string_agg(h."usedDiskMiB"::text, ' '), 'up', string_agg((h.state = 'up')::int::text, ' '),
        'schedulable', string_agg(${isOpen}::int::text, ' '), 'slowness', string_agg(h.slowness::text, ' '))
       FROM (SELECT * FROM "Host" WHERE "removedAt" IS NULL ORDER BY id) h HAVING count(*) > 0) AS hosts,
      (SELECT jsonb_agg(jsonb_build_object('host', h.id, 'fromS', EXTRACT(EPOCH FROM h."vacantFrom"), 'untilS', EXTRACT(EPOCH FROM h."vacantUntil")))
       FROM "Host" h WHERE h."vacantUntil" IS NOT NULL) AS vacant,
      (SELECT jsonb_agg(jsonb_build_object('id', o.id, 'owner', o."ownerId", 'kind', o.kind,
        'submittedAtS', EXTRACT(EPOCH FROM o."createdAt"), 'durationS', o."durationS", 'priority', o.priority,
        'preemptible', o.preemptible, 'startAtS', EXTRACT(EPOCH FROM o."startAt"), 'plannedHosts', o."plannedHosts",
        'bound', o.bound, 'startedAtS', EXTRACT(EPOCH FROM o."startedAt"), 'runFromS', EXTRACT(EPOCH FROM o."runFrom"),
        'leftS', o."leftS", 'suspension', o.suspension, 'operation', o.operation, 'taskId', o."taskId",
        'taskState', o."taskState", 'refusal', o.refusal, 'vms', v.vms) ORDER BY o."createdAt", o.id)
       FROM open o JOIN vms v ON v.lease = o.id) AS leases,
      (SELECT jsonb_build_object('host', string_agg(host, ' '), 'vcpus', string_agg(vcpus::text, ' '), 'memoryMiB', string_agg(memory::text, ' '),
        'diskMiB', string_agg(disk::text, ' '), 'runFromS', string_agg((CASE WHEN leaving THEN 0 ELSE "from" END)::text, ' '),
        'leftS', string_agg((CASE WHEN leaving THEN 0 ELSE "left" END)::text, ' '),
        'preemptible', string_agg((preemptible AND "ofTask" AND NOT leaving)::int::text, ' '))
       FROM running HAVING count(*) > 0) AS running,
      (SELECT jsonb_agg(jsonb_build_object('host', u.host, 'each', jsonb_build_object('vcpus', u.vcpus, 'memoryMiB', u.memory,
        'diskMiB', u.disk))) FROM (
        SELECT k.host, k.vcpus, k.memory, k.disk FROM "Vm" v, berth_taken(v) k
        WHERE v.id IN (SELECT id FROM live WHERE lease IS NULL OR suspension = 'suspended')
        UNION ALL SELECT m."toId", m.vcpus, m."memoryMiB", 0 FROM "Migration" m WHERE m.reserved AND ${scope !== 'promises'}
        UNION ALL SELECT f."hostId", f.vcpus, f."memoryMiB", f."diskMiB" FROM "Fence" f WHERE ${scope !== 'promises'}
      ) u) AS taken,
      -- What a scope of promises has as leases, and so does not take from their hosts' sums.
      (SELECT jsonb_agg(jsonb_build_object('host', k.host, 'each', jsonb_build_object('vcpus', k.vcpus, 'memoryMiB', k.memory, 'diskMiB', k.disk)))
       FROM open o JOIN "Vm" v ON v."leaseId" = o.id, berth_taken(v) k
       WHERE o.suspension IS DISTINCT FROM 'suspended' AND ${scope === 'promises'}) AS "listedUse",
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
  const row = SiteRow.parse(rows[0]);
  const siteHosts = hostsOf(row);
  const leadOf = leadEstimator({ ...row, hosts: siteHosts.hosts });
  return {
    ...siteHosts,
    leases: row.leases.map((lease) => toLease(lease, leadOf, siteHosts.used)),
    running: runningVms(row.running),
    leadOf,
    taken: scope === 'promises' ? takenForEver(siteHosts.used, row.listedUse) : row.taken,
    figures: { teardownS: tailEstimateS(row), suspendMiBPerS },
  };
}

const hasPlacedVm = ({ vms }: LeaseRow): boolean => vms.some((vm) => vm.state !== 'pending');

function leasePhase(row: LeaseRow): LeasePhase {
  if (!hasPlacedVm(row)) return 'waiting';
  if (row.vms.every((vm) => vm.state === 'removing' || vm.state === 'stuck')) return 'leaving';
  if (row.suspension === 'suspended' && row.vms.some(({ migration }) => migration !== null)) return 'migrating';
  return row.suspension ?? 'running';
}

/** By VM. Suspended work that migrates counts on its target, because it does not resume before it arrives there. */
function hostsByVm({ suspension, vms }: LeaseRow): string[] {
  return vms.flatMap(({ host, migration }) => (suspension === 'suspended' ? migration?.to : null) ?? host ?? []);
}

/** @param hosts the site's, by id */
function toLease(row: LeaseRow, leadOf: LeadOf, hosts: ReadonlyMap<string, unknown>): LedgerLease {
  const { plannedHosts, startedAtS, suspension: _, taskId, taskState, vms, ...rest } = row;
  const { vcpus, memoryMiB, diskMiB, image: imageId, imageMiB } = vms[0]!;
  const each = { vcpus, memoryMiB, diskMiB };
  const lead = leadOf({ imageId, imageMiB, each });
  return {
    ...rest,
    // Only the workflow of a task suspends for the plan.
    preemptible: row.preemptible && taskId !== null,
    // A lease that is placed, and not reported to run yet, is expected to run after the usual lead.
    runFromS: row.runFromS ?? (startedAtS === null ? null : startedAtS + lead),
    nodes: vms.length,
    perVm: each,
    leadS: lead,
    phase: leasePhase(row),
    // One that was planned on a host which was removed since gets others.
    hosts: hasPlacedVm(row) ? hostsByVm(row) : plannedHosts.filter((host) => hosts.has(host)),
    imageId,
    task: taskId === null ? null : { id: taskId, state: taskState! },
    vms: vms.map(({ id, generation, state }) => ({ id, generation, state })),
  };
}
