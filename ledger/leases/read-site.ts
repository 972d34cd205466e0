import type { Resources } from '../../model/host.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import type { TaskState, VmState } from '../../model/states.ts';
import type { Refusal } from '../../model/task.ts';
import type { LeasePhase, SiteFigures, SiteLease, SiteState } from '../../scheduler/leases/site/site-state.ts';
import type { Transaction } from '../transaction.ts';
import { type LeadOf, leadEstimator, tailEstimateS } from './lead-times.ts';
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
  figures: SiteFigures;
  /** What VMs use of each host, by the ledger's own sums. */
  used: Map<string, Resources>;
  leadOf: LeadOf;
}

/**
 * Reads all that a plan is made from in one statement, and so at one moment: leases that are wanted or have VMs, of those
 * of best effort that wait the oldest. A VM that a drain will move counts on its target already: the capacity there must
 * not be promised to others before the VM arrives.
 */
export async function readSite(tx: Transaction): Promise<LedgerSite> {
  const rows = await tx.$queryRaw<unknown[]>`
    WITH open AS (
      SELECT l.*, t.id AS "taskId", t.state AS "taskState", t.refusal,
        row_number() OVER (PARTITION BY l."startAt" IS NULL AND l."startedAt" IS NULL ORDER BY l."createdAt", l.id) AS position
      FROM "Lease" l LEFT JOIN "Task" t ON t."leaseId" = l.id
      WHERE l."endedAt" IS NULL AND (l."startedAt" IS NOT NULL OR (t."cancelRequestedAt" IS NULL AND NOT EXISTS (
        SELECT FROM "Vm" w WHERE w."leaseId" = l.id AND w."removalRequestedAt" IS NOT NULL)))
    ), drained AS (
      SELECT m.vm, m."to" AS host FROM "Drain" d JOIN "Vm" v ON v."hostId" = d."hostId",
        jsonb_to_recordset(d.plan->'moves') AS m(vm text, "to" text)
      WHERE d.state IN ('waiting', 'moving', 'paused') AND v.id = m.vm
    ), vms AS (
      SELECT o.id AS lease, jsonb_agg(jsonb_build_object('id', v.id, 'generation', v.generation, 'state', v.state,
        'host', COALESCE(g.host, v."hostId"), 'home', v."homeId", 'migration', (SELECT jsonb_build_object('to', m."toId") FROM "Migration" m
          WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')), 'vcpus', v.vcpus, 'memoryMiB', v."memoryMiB",
        'diskMiB', v."diskMiB" + v."overlayMiB", 'image', v."imageId",
        'imageMiB', COALESCE((SELECT i."sizeBytes" / 1048576.0 FROM "Image" i WHERE i.id = v."imageId"), 0)) ORDER BY v.node, v.id) AS vms
      FROM open o JOIN "Vm" v ON v."leaseId" = o.id AND v.state <> 'removed'
      LEFT JOIN drained g ON g.vm = v.id AND v.state = 'running'
      WHERE o.position <= ${lookahead} OR o."startAt" IS NOT NULL OR o."startedAt" IS NOT NULL
      GROUP BY o.id
    )
    SELECT
      (SELECT jsonb_agg(jsonb_build_object('id', h.id, 'answers', h.state = 'up', 'up', h.state = 'up' AND h.schedulable, 'slowness', h.slowness,
        'capacity', jsonb_build_object('vcpus', h.vcpus, 'memoryMiB', h."memoryMiB", 'diskMiB', h."diskMiB"),
        'used', jsonb_build_object('vcpus', h."usedVcpus", 'memoryMiB', h."usedMemoryMiB", 'diskMiB', h."usedDiskMiB"),
        'vacant', CASE WHEN h."vacantFrom" IS NOT NULL THEN jsonb_build_object('fromS', EXTRACT(EPOCH FROM h."vacantFrom"),
          'untilS', EXTRACT(EPOCH FROM h."vacantUntil")) END) ORDER BY h.id) FROM "Host" h) AS hosts,
      (SELECT jsonb_agg(jsonb_build_object('id', o.id, 'owner', o."ownerId", 'kind', o.kind,
        'submittedAtS', EXTRACT(EPOCH FROM o."createdAt"), 'durationS', o."durationS", 'priority', o.priority,
        'preemptible', o.preemptible, 'startAtS', EXTRACT(EPOCH FROM o."startAt"), 'plannedHosts', o."plannedHosts",
        'bound', o.bound, 'startedAtS', EXTRACT(EPOCH FROM o."startedAt"), 'runFromS', EXTRACT(EPOCH FROM o."runFrom"),
        'leftS', o."leftS", 'suspension', o.suspension, 'operation', o.operation, 'taskId', o."taskId",
        'taskState', o."taskState", 'refusal', o.refusal, 'vms', v.vms) ORDER BY o."createdAt", o.id)
       FROM open o JOIN vms v ON v.lease = o.id) AS leases,
      (SELECT jsonb_agg(jsonb_build_object('host', u.host, 'each', jsonb_build_object('vcpus', u.vcpus, 'memoryMiB', u.memory,
        'diskMiB', u.disk))) FROM (
        SELECT k.host, k.vcpus, k.memory, k.disk FROM "Vm" v LEFT JOIN "Lease" l ON l.id = v."leaseId", berth_taken(v) k
        WHERE v.state NOT IN ('pending', 'removed') AND (l.id IS NULL OR l."endedAt" IS NOT NULL OR l.suspension = 'suspended')
        UNION ALL SELECT m."toId", m.vcpus, m."memoryMiB", 0 FROM "Migration" m WHERE m.reserved
      ) u) AS taken,
      (SELECT jsonb_agg(jsonb_build_object('image', i.image, 'hosts', i.hosts)) FROM (
        SELECT "imageId" AS image, jsonb_agg("hostId") AS hosts FROM "HostImage" GROUP BY "imageId") i) AS images,
      (SELECT jsonb_agg(jsonb_build_object('leadMs', m."leadMs", 'tailMs', m."tailMs", 'promised', m."startAt" IS NOT NULL,
        'warm', m.warm) ORDER BY m."startedAt" DESC) FROM (
        SELECT l.*, (SELECT COALESCE(bool_and(v.boot = 'warm'), false) FROM "Vm" v WHERE v."leaseId" = l.id) AS warm
        FROM "Lease" l WHERE l."leadMs" IS NOT NULL ORDER BY l."startedAt" DESC LIMIT ${recentLeases}) m) AS measured,
      (SELECT jsonb_agg(jsonb_build_object('host', b.host, 'image', b.image, 'vcpus', b.vcpus, 'memoryMiB', b.memory)) FROM (
        SELECT DISTINCT ON (n."hostId", n."imageId", n.vcpus, n."memoryMiB") n."hostId" AS host, n."imageId" AS image, n.vcpus,
          n."memoryMiB" AS memory, n.boot
        FROM (SELECT * FROM "Vm" WHERE boot IS NOT NULL ORDER BY "placedAt" DESC LIMIT ${recentBoots}) n
        WHERE NOT EXISTS (SELECT FROM "Migration" m WHERE m."vmId" = n.id AND m."committedAt" IS NOT NULL)
        ORDER BY n."hostId", n."imageId", n.vcpus, n."memoryMiB", n."placedAt" DESC) b WHERE b.boot = 'warm') AS warm`;
  const row = SiteRow.parse(rows[0]);
  const leadOf = leadEstimator(row);
  return {
    hosts: row.hosts.map(({ used: _, ...host }) => host),
    used: new Map(row.hosts.map(({ id, used }) => [id, used])),
    leases: row.leases.map((lease) => toLease(lease, leadOf)),
    leadOf,
    taken: row.taken,
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

function toLease(row: LeaseRow, leadOf: LeadOf): LedgerLease {
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
    hosts: hasPlacedVm(row) ? hostsByVm(row) : plannedHosts,
    imageId,
    task: taskId === null ? null : { id: taskId, state: taskState! },
    vms: vms.map(({ id, generation, state }) => ({ id, generation, state })),
  };
}
