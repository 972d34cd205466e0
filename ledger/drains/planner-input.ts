import type { DrainMode, DrainStrategy, SuspendInPlace } from '../../model/drain.ts';
import type { TaskState, VmState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import type { VmOperation } from '../../model/vm-request.ts';
import type { DrainPlanInput, DrainTarget, DrainVm, PlannedMode } from '../../scheduler/drains/drain-input.ts';
import { fitMigrationModel, type MigrationModel } from '../../scheduler/drains/migration-model.ts';
import type { MigrationSample, OperationKind } from '../../scheduler/drains/migration-operations.ts';
import { moveModes } from '../../scheduler/drains/migration-operations.ts';
import type { Transaction } from '../transaction.ts';

/** The model is fitted to this many of the newest measurements. */
const maxSamples = 400;
/** How often a drain requests the suspension of one VM. */
const maxSuspendTries = 2;
/** How long past timeoutS a command may run; equals runMargin in workflows/durable/timeouts.ts. */
const commandMarginMs = 90_000;

async function readMigrationModel(tx: Transaction): Promise<MigrationModel> {
  const rows = await tx.measurement.findMany({ orderBy: [{ at: 'desc' }, { id: 'asc' }], take: maxSamples });
  return fitMigrationModel(
    rows.map(
      (row): MigrationSample => ({
        kind: row.kind as OperationKind,
        from: row.fromId,
        to: row.toId,
        load: {
          vm: row.vmId,
          memoryMiB: row.memoryMiB,
          residentMiB: row.residentMiB,
          dirtyMiBPerS: row.dirtyMiBPerS,
          diskMiB: row.diskMiB ?? 0,
        },
        concurrency: row.concurrency,
        atMs: row.at.getTime(),
        seconds: row.seconds,
        transferS: row.transferS,
        bytes: Number(row.bytes),
        recoveryS: row.recoveryS,
      }),
    ),
  );
}

interface VmRow {
  id: string;
  state: VmState;
  asleep: boolean;
  template: boolean;
  vcpus: number;
  memoryMiB: number;
  residentMiB: number | null;
  dirtyMiBPerS: number | null;
  taskState: TaskState | null;
  /** Milliseconds since 1970; null where the VM has no such end. */
  leaseEndMs: number | null;
  commandEndMs: number | null;
  hostId: string | null;
  homeId: string | null;
  diskMiB: number;
  image: { id: string; mib: number; at: string[] } | null;
  migration: { state: string; to: string | null; sinceMs: number; mode: PlannedMode } | null;
  standalone: boolean;
  promised: boolean;
  operation: VmOperation | null;
  problem: TaskError | null;
  /** The suspension that this drain has requested or found. */
  suspension: { tries: number; askedMs: number } | null;
  failed: { to: string; why: string; converges: boolean; atMs: number }[];
}

/** A VM of the host, with its last failed move and the attempts to suspend it there. */
export type DrainVmState = DrainVm & {
  lastFailedMs: number | null;
  template: boolean;
  suspensions: { tries: number; askedMs: number } | null;
};

/**
 * Selects the VMs of a host and those that migrate to it; with `moveDisks` also those whose disks it has. Leaves out VMs
 * that are suspended there, for this drain or for an earlier one after which the host was not opened.
 */
interface HostVmsQuery {
  host: string;
  /** The drain whose attempts count; '' for none. */
  drain: string;
  moveDisks: boolean;
  suspendInPlace: SuspendInPlace;
}

export async function readHostVms(
  tx: Transaction,
  { host, drain, moveDisks, suspendInPlace }: HostVmsQuery,
): Promise<DrainVmState[]> {
  const rows = await tx.$queryRaw<VmRow[]>`
    SELECT v.id, v.state, v.asleep, v.template, v."hostId", v."homeId", v.vcpus, v."memoryMiB",
      v."diskMiB" + v."overlayMiB" AS "diskMiB", w."residentMiB", w."dirtyMiBPerS", t.state AS "taskState",
      (extract(epoch FROM l."startedAt") + l."durationS")::float8 * 1000 AS "leaseEndMs",
      (extract(epoch FROM t."startedAt") + (t.spec->>'timeoutS')::float8)::float8 * 1000 + ${commandMarginMs}::float8 AS "commandEndMs",
      (SELECT jsonb_build_object('id', i.id, 'mib', i."sizeBytes"::float8 / 1048576,
          'at', COALESCE((SELECT jsonb_agg(c."hostId") FROM "HostImage" c WHERE c."imageId" = i.id), '[]'))
        FROM "Image" i WHERE i.id = v."imageId") AS image,
      (SELECT jsonb_build_object('state', m.state, 'to', m."toId",
          'mode', CASE WHEN m."committedAt" IS NULL THEN m.mode ELSE 'disks' END,
          'sinceMs', extract(epoch FROM COALESCE(m."committedAt", m."startedAt", m."createdAt")) * 1000)
        FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')) AS migration,
      v."order" IS NOT NULL AS standalone, l."startAt" IS NOT NULL AS promised, v.operation, v.problem,
      CASE WHEN s."vmId" IS NOT NULL THEN jsonb_build_object('tries', s.tries, 'askedMs', extract(epoch FROM s."askedAt") * 1000)
        END AS suspension,
      COALESCE((SELECT jsonb_agg(jsonb_build_object('to', m."toId", 'why', m.error->>'message',
          'converges', m.error->>'code' IS DISTINCT FROM 'not-converging',
          'atMs', extract(epoch FROM m."finishedAt") * 1000) ORDER BY m."finishedAt")
        FROM "Migration" m WHERE m."vmId" = v.id AND m.state = 'rolledBack' AND m."requestedBy" = ${drain}
          AND m."toId" IS NOT NULL AND m."fromId" = ${host}), '[]') AS failed
    FROM "Vm" v LEFT JOIN "VmLoad" w ON w."vmId" = v.id LEFT JOIN "Task" t ON t.id = v."taskId"
      LEFT JOIN "Lease" l ON l.id = v."leaseId"
      LEFT JOIN "DrainSuspension" s ON s."vmId" = v.id AND s."drainId" = ${drain} AND s."releasedAt" IS NULL
    WHERE v.state NOT IN ('pending', 'removed')
      AND NOT (${suspendInPlace} = 'ifStuck' AND v.state = 'suspended' AND v.operation IS NULL AND v."hostId" = ${host} AND EXISTS (
        SELECT FROM "DrainSuspension" r JOIN "Drain" d ON d.id = r."drainId"
        WHERE r."vmId" = v.id AND r."releasedAt" IS NULL AND d."hostId" = ${host}))
      AND (v."hostId" = ${host} OR (${moveDisks} AND v."homeId" = ${host})
      OR EXISTS (SELECT FROM "Migration" m WHERE m."vmId" = v.id AND m."toId" = ${host} AND m.reserved))
    ORDER BY v.id`;
  return rows.map((row) => ({
    id: row.id,
    vcpus: row.vcpus,
    memoryMiB: row.memoryMiB,
    load: {
      vm: row.id,
      memoryMiB: row.memoryMiB,
      residentMiB: row.residentMiB,
      dirtyMiBPerS: row.dirtyMiBPerS,
      diskMiB: row.diskMiB,
    },
    disks: moveDisks && row.homeId === host ? { diskMiB: row.diskMiB, runsAt: row.hostId ?? host } : null,
    suspended: row.asleep,
    image: row.image,
    template: row.template,
    phase: phaseOf(row, host),
    endsByMs: earliestEndMs(row),
    cannotSuspendReason: notSuspendableReason(row),
    suspensions: row.suspension,
    failed: row.failed,
    lastFailedMs: row.failed.at(-1)?.atMs ?? null,
  }));
}

function phaseOf({ state, migration, taskState, hostId, suspension, operation }: VmRow, host: string): DrainVm['phase'] {
  if (migration !== null) {
    if (migration.state === 'stuck') return { kind: 'fixed', why: 'it is not known yet on which host its migration has left it' };
    if (migration.to === host) return { kind: 'settling', why: 'it is migrating to this host' };
    return { kind: 'moving', sinceMs: migration.sinceMs, to: migration.to, mode: migration.mode };
  }
  if (suspension !== null && operation === 'suspend') return { kind: 'suspending', sinceMs: suspension.askedMs };
  switch (state) {
    case 'running':
    case 'suspended':
      if (state === 'suspended' && hostId !== host)
        return {
          kind: 'fixed',
          why: `it is suspended at ${hostId}: its disks, which are on this host, can follow it only while it runs`,
        };
      if (taskState === null || taskState === 'running') return { kind: 'movable' };
      return { kind: 'settling', why: `its task is ${taskState}` };
    case 'reserved':
    case 'creating':
    case 'restoring':
    case 'suspending':
    case 'migrating':
    case 'removing':
      return { kind: 'settling', why: `it is ${state}` };
    default:
      return { kind: 'fixed', why: `it is ${state}: only a VM that runs or is suspended can be moved` };
  }
}

/**
 * Why a VM cannot be suspended where it is. Its own workflow suspends it, so it has to be standalone; and promised time is
 * not interrupted. A VM that is suspended already can remain so, also a task's: the lease plan resumes it on the host that
 * has its memory, once that host is open.
 */
function notSuspendableReason({ asleep, standalone, promised, problem, suspension }: VmRow): string | null {
  if (asleep) return null;
  if (!standalone) return 'it belongs to a task, whose work is suspended for promises alone';
  if (promised) return 'its time was promised to it';
  if (suspension === null || suspension.tries < maxSuspendTries) return null;
  return `it was tried ${suspension.tries} times${problem === null ? '' : `: ${problem.message}`}`;
}

/** The first known end; null for a VM that remains until it is removed. */
function earliestEndMs({ leaseEndMs, commandEndMs }: VmRow): number | null {
  const ends = [leaseEndMs, commandEndMs].filter((end) => end !== null);
  return ends.length === 0 ? null : Math.min(...ends);
}

/** Every host as a target, with the number of VMs that this drain has moved there. */
async function readDrainTargets(tx: Transaction, host: string, drain: string): Promise<DrainTarget[]> {
  return tx.$queryRaw<DrainTarget[]>`
    SELECT h.id, h.state, h."acceptsMigrations", h.accelerator, h."cpuModel",
      jsonb_build_object('vcpus', h.vcpus, 'memoryMiB', h."memoryMiB") AS capacity,
      jsonb_build_object('vcpus', h."usedVcpus", 'memoryMiB', h."usedMemoryMiB") AS used,
      h."diskMiB" - h."usedDiskMiB" AS "freeDiskMiB",
      (SELECT count(*)::int FROM "Migration" m JOIN "Vm" v ON v.id = m."vmId" AND v."hostId" = h.id AND v.state <> 'removed'
        WHERE m."requestedBy" = ${drain} AND m.state = 'succeeded' AND m.mode <> 'disks' AND m."toId" = h.id AND m."fromId" = ${host}) AS given
    FROM "Host" h ORDER BY h.id`;
}

export interface DrainPlanRequest {
  host: string;
  /** The drain's id; '' before it has one. */
  drain: string;
  deadlineMs: number;
  strategy: DrainStrategy;
  mode: DrainMode;
  /** Whether the disks of its VMs leave the host as well. */
  moveDisks: boolean;
  /** Whether VMs that no other host can take are suspended on the host. */
  suspendInPlace: SuspendInPlace;
  /** The probability with which the plan has to meet the deadline. */
  confidence: number;
  nowMs: number;
}

/** Reads everything that the plan of a drain depends on. */
export async function readDrainInput(
  tx: Transaction,
  request: DrainPlanRequest,
): Promise<Omit<DrainPlanInput, 'vms'> & { vms: DrainVmState[] }> {
  const { host, drain, deadlineMs, strategy, mode, suspendInPlace, confidence, nowMs } = request;
  const modes = mode === 'auto' ? moveModes : [mode];
  const vms = await readHostVms(tx, request);
  const hosts = await readDrainTargets(tx, host, drain);
  const model = await readMigrationModel(tx);
  return { nowMs, deadlineMs, host, strategy, confidence, vms, hosts, suspendInPlace, modes, model };
}
