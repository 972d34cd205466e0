import type { Prisma } from '../../generated/prisma/client.ts';
import type { Resources } from '../../model/host.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import type { TaskState, VmState } from '../../model/states.ts';
import type { Refusal } from '../../model/task.ts';
import type {
  LeasePhase,
  SiteFigures,
  SiteHost,
  SiteLease,
  SiteOperation,
  SiteState,
} from '../../scheduler/leases/site/site-state.ts';
import { typicalMax } from '../../scheduler/statistics.ts';

/** How many best-effort leases that wait a plan looks at; the rest wait behind them. */
const lookahead = 256;

/** What a lease costs beyond its time, as long as nothing was measured: an emulated boot with room to spare. */
const leadS = { first: 15, least: 4, most: 900 };
const tailS = { first: 8, least: 3, most: 300 };
/** Half of a gigabit network: what an image takes to hosts that lack it. */
const imageMiBPerS = 50;
/** Of a slow disk; hosts that are slower than this are planned slower from the first time on. */
const suspendMiBPerS = 64;
/** So many leases of late are looked at; of each sort the newest, once there are enough to say what is usual. */
const recentLeases = 96;
const samplesPerGroup = 24;
const minSamples = 3;
/** What they usually took at most is planned, with this much to spare. */
const safetyFactor = 1.3;
/** Whether VMs of a kind start from a template is seen by the last of them on each host, among so many that came to life. */
const recentBoots = 512;

export interface LedgerLease extends SiteLease {
  owner: string;
  task: { id: TaskId; state: TaskState } | null;
  imageId: string | null;
  /** Why it still waits, as it was last written. */
  refusal: Refusal | null;
  vms: { id: VmId; generation: number; state: VmState }[];
}

/** The site as the ledger has it, for its plan. */
export interface LedgerSite extends SiteState {
  leases: LedgerLease[];
  figures: SiteFigures;
  /** What VMs take of each host, by the ledger's own sums. */
  used: Map<string, Resources>;
  /** What VMs of an image and a size take to be there. */
  leadOf(kind: VmKind): number;
}

/** VMs that start from the same template, as far as the ledger can tell. */
export interface VmKind {
  imageId: string | null;
  imageMiB: number;
  each: Pick<Resources, 'vcpus' | 'memoryMiB'>;
}

/** What a lease took besides its time. */
interface LeaseTiming {
  leadMs: number;
  /** null: it has not ended. */
  tailMs: number | null;
  promised: boolean;
  /** All of its VMs started from a template. */
  warm: boolean;
}

interface LeaseRow {
  id: string;
  owner: string;
  kind: SiteLease['kind'];
  submittedAtS: number;
  durationS: number;
  priority: number;
  preemptible: boolean;
  startAtS: number | null;
  plannedHosts: string[];
  bound: boolean;
  startedAtS: number | null;
  runFromS: number | null;
  leftS: number | null;
  suspension: 'suspending' | 'suspended' | 'resuming' | null;
  operation: SiteOperation | null;
  taskId: TaskId | null;
  taskState: TaskState | null;
  refusal: Refusal | null;
  vms: {
    id: VmId;
    generation: number;
    state: VmState;
    host: string | null;
    home: string | null;
    /** It moves: where to, as far as it is known. */
    moving: { to: string | null } | null;
    vcpus: number;
    memoryMiB: number;
    diskMiB: number;
    image: string | null;
    imageMiB: number;
  }[];
}

interface Row {
  hosts: (SiteHost & { used: Resources })[] | null;
  leases: LeaseRow[] | null;
  taken: { host: string; each: Resources }[] | null;
  images: { image: string; hosts: string[] }[] | null;
  measured: LeaseTiming[] | null;
  warm: { host: string; image: string; vcpus: number; memoryMiB: number }[] | null;
}

/**
 * Reads all that a plan is made from in one statement, so as it is at one moment. Leases that are wanted or have VMs;
 * of best effort that waits, the oldest. A VM that is to leave its host for a drain is where that will bring it: the room
 * there is not to be promised to others before it comes.
 */
export async function readSite(tx: Prisma.TransactionClient): Promise<LedgerSite> {
  const rows = await tx.$queryRaw<Row[]>`
    WITH open AS (
      SELECT l.*, t.id AS "taskId", t.state AS "taskState", t.refusal,
        row_number() OVER (PARTITION BY l."startAt" IS NULL AND l."startedAt" IS NULL ORDER BY l."createdAt", l.id) AS place
      FROM "Lease" l LEFT JOIN "Task" t ON t."leaseId" = l.id
      WHERE l."endedAt" IS NULL AND (l."startedAt" IS NOT NULL OR (t."cancelRequestedAt" IS NULL AND NOT EXISTS (
        SELECT FROM "Vm" w WHERE w."leaseId" = l.id AND w."removalRequestedAt" IS NOT NULL)))
    ), goes AS (
      SELECT m.vm, m."to" AS host FROM "Drain" d JOIN "Vm" v ON v."hostId" = d."hostId",
        jsonb_to_recordset(d.plan->'moves') AS m(vm text, "to" text)
      WHERE d.state IN ('waiting', 'moving', 'paused') AND v.id = m.vm
    ), vms AS (
      SELECT o.id AS lease, jsonb_agg(jsonb_build_object('id', v.id, 'generation', v.generation, 'state', v.state,
        'host', COALESCE(g.host, v."hostId"), 'home', v."homeId", 'moving', (SELECT jsonb_build_object('to', m."toId") FROM "Migration" m
          WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')), 'vcpus', v.vcpus, 'memoryMiB', v."memoryMiB",
        'diskMiB', v."diskMiB" + v."overlayMiB", 'image', v."imageId",
        'imageMiB', COALESCE((SELECT i."sizeBytes" / 1048576.0 FROM "Image" i WHERE i.id = v."imageId"), 0)) ORDER BY v.node, v.id) AS vms
      FROM open o JOIN "Vm" v ON v."leaseId" = o.id AND v.state <> 'removed'
      LEFT JOIN goes g ON g.vm = v.id AND v.state = 'running'
      WHERE o.place <= ${lookahead} OR o."startAt" IS NOT NULL OR o."startedAt" IS NOT NULL
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
  const row = rows[0]!;
  const hosts = row.hosts ?? [];
  const timings = row.measured ?? [];
  const tails = timings.flatMap(({ tailMs }) => tailMs ?? []);
  const leadOf = leadEstimator(row, timings);
  return {
    hosts: hosts.map(({ used: _, ...host }) => host),
    used: new Map(hosts.map(({ id, used }) => [id, used])),
    leases: (row.leases ?? []).map((lease) => toLease(lease, leadOf)),
    leadOf,
    taken: row.taken ?? [],
    figures: { teardownS: estimateS([tails], tailS), suspendMiBPerS },
  };
}

/**
 * VMs that start from a template are there much sooner than those that boot: each sort has its figure. The warm one holds
 * for a kind of VM that started so last time on every host, because it is not known yet on which it will be; an image that
 * a host lacks is sent first.
 */
function leadEstimator({ hosts, warm, images }: Row, past: readonly LeaseTiming[]): LedgerSite['leadOf'] {
  const leads = (isWarm: boolean): number => {
    const sort = past.filter((one) => one.warm === isWarm);
    const all = sort.map(({ leadMs }) => leadMs);
    // Those that are promised begin on all their hosts at once: many that begin alone must not hide that.
    const promised = sort.flatMap((one) => (one.promised ? [one.leadMs] : []));
    return estimateS([all, promised], leadS);
  };
  const figures = { warm: leads(true), cold: leads(false) };
  const kindOf = (image: string | null, vcpus: number, memoryMiB: number) => `${image} ${vcpus} ${memoryMiB}`;
  const warmOn = new Map<string, Set<string>>();
  for (const { host, image, vcpus, memoryMiB } of warm ?? []) {
    const kind = kindOf(image, vcpus, memoryMiB);
    warmOn.set(kind, (warmOn.get(kind) ?? new Set()).add(host));
  }
  const up = (hosts ?? []).filter((host) => host.up);
  const hostsByImage = new Map((images ?? []).map(({ image, hosts }) => [image, new Set(hosts)]));
  return ({ imageId, imageMiB, each }) => {
    const warmHosts = warmOn.get(kindOf(imageId, each.vcpus, each.memoryMiB));
    if (warmHosts !== undefined && up.every(({ id }) => warmHosts.has(id))) return figures.warm;
    const isThere = up.every(({ id }) => hostsByImage.get(imageId ?? '')?.has(id));
    return Math.min(leadS.most, figures.cold + (isThere ? 0 : Math.round(imageMiB / imageMiBPerS)));
  };
}

/**
 * Of measurements in ms, by group, the newest first; the first group is of all. Whole seconds: a plan that differed by
 * milliseconds each time would have nothing that stays where it is.
 */
function estimateS(groups: number[][], { first, least, most }: { first: number; least: number; most: number }): number {
  const known = groups.filter((group) => group.length >= minSamples);
  if (known.length === 0) return first;
  const usual = Math.max(...known.map((group) => typicalMax(group.slice(0, samplesPerGroup))));
  return Math.min(most, Math.max(least, Math.ceil((usual / 1000) * safetyFactor)));
}

const hasPlacedVm = ({ vms }: LeaseRow): boolean => vms.some((vm) => vm.state !== 'pending');

function leasePhase(row: LeaseRow): LeasePhase {
  if (!hasPlacedVm(row)) return 'waiting';
  if (row.vms.every((vm) => vm.state === 'removing' || vm.state === 'stuck')) return 'leaving';
  if (row.suspension === 'suspended' && row.vms.some(({ moving }) => moving !== null)) return 'migrating';
  return row.suspension ?? 'running';
}

/** By VM. Suspended work that moves is where it goes: it does not go on before it is there. */
function hostsByVm({ suspension, vms }: LeaseRow): string[] {
  return vms.flatMap(({ host, moving }) => (suspension === 'suspended' ? moving?.to : null) ?? host ?? []);
}

function toLease(row: LeaseRow, leadOf: LedgerSite['leadOf']): LedgerLease {
  const { plannedHosts, startedAtS, suspension: _, taskId, taskState, vms, ...rest } = row;
  const one = vms[0]!;
  const each = { vcpus: one.vcpus, memoryMiB: one.memoryMiB, diskMiB: one.diskMiB };
  const lead = leadOf({ imageId: one.image, imageMiB: one.imageMiB, each });
  return {
    ...rest,
    // Only a task's workflow suspends for the plan.
    preemptible: row.preemptible && taskId !== null,
    // Placed, and not said yet to run: by its placement it will after the time that others took.
    runFromS: row.runFromS ?? (startedAtS === null ? null : startedAtS + lead),
    nodes: vms.length,
    perVm: each,
    leadS: lead,
    phase: leasePhase(row),
    hosts: hasPlacedVm(row) ? hostsByVm(row) : plannedHosts,
    imageId: one.image,
    task: taskId === null ? null : { id: taskId, state: taskState! },
    vms: vms.map(({ id, generation, state }) => ({ id, generation, state })),
  };
}
