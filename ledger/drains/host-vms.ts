import { z } from 'zod';
import type { SuspendInPlace } from '../../model/drain.ts';
import type { HostId, ImageId, VmId } from '../../model/ids.ts';
import { hasEnded, taskStates, vmStates } from '../../model/states.ts';
import { pausedByParties } from '../../model/vm.ts';
import { vmOperationNames } from '../../model/vm-request.ts';
import { vmRulesOf } from '../../scheduler/constraints.ts';
import type { DrainVm } from '../../scheduler/drains/drain-input.ts';
import { storedRules } from '../placement/read-rules.ts';
import { idOf } from '../row-schemas.ts';
import type { Transaction } from '../transaction.ts';

/** How often a drain requests the suspension of one VM. */
const maxSuspendTries = 2;
/** How long past timeoutS a command may run; equals runMargin in workflows/durable/timeouts.ts. */
const commandMarginMs = 90_000;

const epochMs = z.number();

const HostVmRow = z.strictObject({
  /** Whose VM it is asked as. */
  ofHost: z.string().min(1),
  id: idOf<VmId>(),
  state: z.enum(vmStates),
  pausedBy: z.enum(pausedByParties).nullable(),
  asleep: z.boolean(),
  template: z.boolean(),
  vcpus: z.int().min(0),
  memoryMiB: z.int().min(0),
  residentMiB: z.number().nullable(),
  dirtyMiBPerS: z.number().nullable(),
  taskState: z.enum(taskStates).nullable(),
  /** null where the VM has no such end. */
  leaseEndMs: epochMs.nullable(),
  commandEndMs: epochMs.nullable(),
  hostId: idOf<HostId>().nullable(),
  homeId: idOf<HostId>().nullable(),
  diskMiB: z.int().min(0),
  image: z.strictObject({ id: idOf<ImageId>(), mib: z.number().min(0) }).nullable(),
  migration: z
    .strictObject({
      state: z.enum(['running', 'stuck']),
      to: idOf<HostId>().nullable(),
      sinceMs: epochMs,
      mode: z.enum(['live', 'cold', 'disks']),
    })
    .nullable(),
  owner: z.string(),
  rules: storedRules,
  standalone: z.boolean(),
  promised: z.boolean(),
  operation: z.enum(vmOperationNames).nullable(),
  problem: z.object({ message: z.string() }).nullable(),
  /** The suspension that this drain has requested or found. */
  suspension: z.strictObject({ tries: z.int().min(0), requestedMs: epochMs }).nullable(),
  failed: z.array(z.strictObject({ to: idOf<HostId>(), why: z.string(), converges: z.boolean(), atMs: epochMs })),
});

type HostVmRow = z.infer<typeof HostVmRow>;

/** A VM of the host, with its last failed move and the attempts to suspend it there. */
export type DrainVmState = DrainVm & {
  lastFailedMs: number | null;
  template: boolean;
  suspensions: { tries: number; requestedMs: number } | null;
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

export async function readHostVms(tx: Transaction, query: HostVmsQuery): Promise<DrainVmState[]> {
  return (await readVmsOfHosts(tx, [query.host], query)).get(query.host) ?? [];
}

/** The same for several hosts, in one statement; hosts without VMs are absent. */
export async function readVmsOfHosts(
  tx: Transaction,
  hosts: readonly string[],
  { drain, moveDisks, suspendInPlace }: Omit<HostVmsQuery, 'host'>,
): Promise<Map<string, DrainVmState[]>> {
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT h.host AS "ofHost", v.id, v.state, v."pausedBy", v.asleep, v.template, v."hostId", v."homeId", v.vcpus, v."memoryMiB",
      v."diskMiB" + v."overlayMiB" AS "diskMiB", w."residentMiB", w."dirtyMiBPerS", t.state AS "taskState",
      (extract(epoch FROM l."startedAt") + l."durationS")::float8 * 1000 AS "leaseEndMs",
      (extract(epoch FROM t."startedAt") + (t.spec->>'timeoutS')::float8)::float8 * 1000 + ${commandMarginMs}::float8 AS "commandEndMs",
      (SELECT jsonb_build_object('id', i.id, 'mib', i."sizeBytes"::float8 / 1048576) FROM "Image" i WHERE i.id = v."imageId") AS image,
      (SELECT jsonb_build_object('state', m.state, 'to', m."toId",
          'mode', CASE WHEN m."committedAt" IS NULL THEN m.mode ELSE 'disks' END,
          'sinceMs', extract(epoch FROM COALESCE(m."committedAt", m."startedAt", m."createdAt")) * 1000)
        FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')) AS migration,
      v."ownerId" AS owner, v.rules, v."order" IS NOT NULL AS standalone, l."startAt" IS NOT NULL AS promised, v.operation, v.problem,
      CASE WHEN s."vmId" IS NOT NULL THEN jsonb_build_object('tries', s.tries, 'requestedMs', extract(epoch FROM s."askedAt") * 1000)
        END AS suspension,
      COALESCE((SELECT jsonb_agg(jsonb_build_object('to', m."toId", 'why', m.error->>'message',
          'converges', m.error->>'code' IS DISTINCT FROM 'not-converging',
          'atMs', extract(epoch FROM m."finishedAt") * 1000) ORDER BY m."finishedAt")
        FROM "Migration" m WHERE m."vmId" = v.id AND m.state = 'rolledBack' AND m."requestedBy" = ${drain}
          AND m."toId" IS NOT NULL AND m."fromId" = h.host), '[]') AS failed
    FROM unnest(${[...hosts]}::text[]) AS h(host) CROSS JOIN LATERAL (
      -- Three indexes, where OR would look at every VM of the site.
      SELECT id FROM "Vm" WHERE "hostId" = h.host AND state NOT IN ('pending', 'removed')
      UNION SELECT id FROM "Vm" WHERE ${moveDisks} AND "homeId" = h.host AND state NOT IN ('pending', 'removed')
      UNION SELECT "vmId" FROM "Migration" WHERE "toId" = h.host AND reserved
    ) here JOIN "Vm" v ON v.id = here.id LEFT JOIN "VmLoad" w ON w."vmId" = v.id LEFT JOIN "Task" t ON t.id = v."taskId"
      LEFT JOIN "Lease" l ON l.id = v."leaseId"
      LEFT JOIN "DrainSuspension" s ON s."vmId" = v.id AND s."drainId" = ${drain} AND s."releasedAt" IS NULL
    WHERE v.state NOT IN ('pending', 'removed')
      AND NOT (${suspendInPlace} = 'ifStuck' AND v.state = 'suspended' AND v.operation IS NULL AND v."hostId" = h.host AND EXISTS (
        SELECT FROM "DrainSuspension" r JOIN "Drain" d ON d.id = r."drainId"
        WHERE r."vmId" = v.id AND r."releasedAt" IS NULL AND d."hostId" = h.host))
      -- One that has no domain leaves nothing on the host but disks, and these only on its home.
      AND NOT (v.state IN ('stopped', 'crashed') AND (NOT ${moveDisks} OR v."homeId" <> h.host))
    ORDER BY v.id`;
  const vms = z.array(HostVmRow).parse(rows);
  const holders = await readImageHolders(tx, new Set(vms.flatMap(({ image }) => image?.id ?? [])));
  const byHost = Map.groupBy(vms, ({ ofHost }) => ofHost);
  return new Map([...byHost].map(([host, rows]) => [host, rows.map((row) => vmOn(row, moveDisks, holders))]));
}

/** The hosts that have each image: a thousand of them for each VM would be most of what a drain reads. */
async function readImageHolders(tx: Transaction, images: ReadonlySet<ImageId>): Promise<Map<ImageId, HostId[]>> {
  if (images.size === 0) return new Map();
  const rows = await tx.$queryRaw<{ image: ImageId; hosts: HostId[] }[]>`
    SELECT "imageId" AS image, array_agg("hostId") AS hosts FROM "HostImage" WHERE "imageId" = ANY(${[...images]}) GROUP BY "imageId"`;
  return new Map(rows.map(({ image, hosts }) => [image, hosts]));
}

function vmOn(row: HostVmRow, moveDisks: boolean, holders: ReadonlyMap<ImageId, HostId[]>): DrainVmState {
  const host = row.ofHost;
  return {
    id: row.id,
    vcpus: row.vcpus,
    memoryMiB: row.memoryMiB,
    load: {
      vm: row.id,
      memoryMiB: hasEnded(row.state) ? 0 : row.memoryMiB,
      residentMiB: hasEnded(row.state) ? null : row.residentMiB,
      dirtyMiBPerS: row.state === 'paused' ? 0 : row.dirtyMiBPerS,
      diskMiB: row.diskMiB,
    },
    disks: moveDisks && row.homeId === host ? { diskMiB: row.diskMiB, runsAt: row.hostId ?? host } : null,
    suspended: row.asleep,
    paused: row.state === 'paused',
    ended: hasEnded(row.state),
    image: row.image && { ...row.image, at: holders.get(row.image.id) ?? [] },
    template: row.template,
    rules: vmRulesOf(row.owner, row.rules),
    phase: phaseOf(row, host),
    endsByMs: earliestEndMs(row),
    cannotSuspendReason: notSuspendableReason(row),
    suspensions: row.suspension,
    failed: row.failed,
    lastFailedMs: row.failed.at(-1)?.atMs ?? null,
  };
}

function phaseOf(
  { state, pausedBy, migration, taskState, hostId, suspension, operation }: HostVmRow,
  host: string,
): DrainVm['phase'] {
  if (migration !== null) {
    if (migration.state === 'stuck') return { kind: 'fixed', why: 'it is not known yet on which host its migration has left it' };
    if (migration.to === host) return { kind: 'settling', why: 'it is migrating to this host' };
    return { kind: 'moving', sinceMs: migration.sinceMs, to: migration.to, mode: migration.mode };
  }
  if (suspension !== null && operation === 'suspend') return { kind: 'suspending', sinceMs: suspension.requestedMs };
  switch (state) {
    case 'running':
    case 'paused':
    case 'suspended':
      if (pausedBy === 'guest' && hostId === host)
        return { kind: 'fixed', why: 'its guest sleeps: it can be moved when it is resumed', suspendable: true };
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
    case 'stopped':
    case 'crashed':
      if (hostId === host) return { kind: 'movable' };
      return {
        kind: 'fixed',
        why: `it is ${state} at ${hostId}: its disks, which are on this host, can follow it only while it runs`,
      };
    default:
      return { kind: 'fixed', why: `it is ${state}: only a VM that runs, is paused or is suspended can be moved` };
  }
}

/**
 * Why a VM cannot be suspended where it is. Its own workflow suspends it, so it has to be standalone; and promised time is
 * not interrupted. A VM that is suspended already can remain so, also a task's: the lease plan resumes it on the host that
 * has its memory, once that host is open.
 */
function notSuspendableReason({ state, asleep, standalone, promised, problem, suspension }: HostVmRow): string | null {
  if (asleep) return null;
  if (hasEnded(state)) return 'it does not run';
  if (!standalone) return 'it belongs to a task, whose work is suspended for promises alone';
  if (promised) return 'its time was promised to it';
  if (suspension === null || suspension.tries < maxSuspendTries) return null;
  return `it was tried ${suspension.tries} times${problem === null ? '' : `: ${problem.message}`}`;
}

/** The first known end; null for a VM that remains until it is removed. */
function earliestEndMs({ leaseEndMs, commandEndMs }: HostVmRow): number | null {
  const ends = [leaseEndMs, commandEndMs].filter((end) => end !== null);
  return ends.length === 0 ? null : Math.min(...ends);
}
