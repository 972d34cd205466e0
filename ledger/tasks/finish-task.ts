import type { Notification, TaskOutcome } from '../../contracts/ledger.ts';
import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import { leaseEventTypes, type TaskEndedData, taskEventTypes } from '../../model/events.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { diskMiBSeconds } from '../../model/money/metered.ts';
import { isTerminal, type TaskState } from '../../model/states.ts';
import type { TaskOutput } from '../../model/task.ts';
import { eventInsert } from '../events/write-event.ts';
import { writeLeaseEvent } from '../leases/lease-event.ts';
import { byLedgerClock } from '../ledger-clock.ts';
import { settleLease } from '../market/settle-lease.ts';
import { oneOrNotFound } from '../rows.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { releaseVms } from '../vms/release-vms.ts';
import { residenciesOfRow } from '../vms/residencies.ts';
import { type Residency, usageByHost, usageTotals } from '../vms/usage.ts';

export interface TaskRow {
  name: string;
  ownerId: string;
  state: TaskState;
  createdAt: Date;
  startedAt: Date | null;
  errorCode: ErrorCode | null;
  timeline: TaskOutcome['timeline'];
  /** Its lease, where that has a promise. */
  promisedLease: string | null;
  /** Its lease, where that has a bill. */
  billedLease: string | null;
  vms: {
    id: VmId;
    state: string;
    hostId: string | null;
    provider: string | null;
    vcpus: number;
    memoryMiB: number;
    keptMiB: number;
    /** As the ledger saw it; the end of a task has the time by its host's clock. */
    startedAt: string | null;
    resumedAt: string | null;
    asleep: boolean;
    usageAt: string | null;
    residencies: Residency[];
  }[];
}

export async function lockTask(tx: Transaction, id: TaskId): Promise<TaskRow> {
  const rows = await tx.$queryRaw<TaskRow[]>`
    SELECT t.name, t."ownerId", t.state, t."createdAt", t."startedAt", t.error->>'code' AS "errorCode", t.timeline,
      (SELECT l.id FROM "Lease" l WHERE l.id = t."leaseId" AND l."startAt" IS NOT NULL) AS "promisedLease",
      (SELECT b."leaseId" FROM "Bill" b WHERE b."leaseId" = t."leaseId") AS "billedLease",
      (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', v.id, 'state', v.state, 'hostId', v."hostId", 'provider', h.provider,
        'vcpus', v.vcpus, 'memoryMiB', v."memoryMiB", 'keptMiB', v."diskMiB" + v."overlayMiB", 'startedAt', v."startedAt", 'resumedAt', v."resumedAt", 'asleep', v.asleep, 'usageAt', v."usageAt", 'residencies',
        ${residenciesOfRow})
        ORDER BY v.node), '[]')
       FROM "Vm" v LEFT JOIN "Host" h ON h.id = v."hostId" WHERE v."taskId" = t.id) AS vms
    FROM "Task" t WHERE t.id = ${id} FOR UPDATE`;
  return oneOrNotFound(rows, `task ${id}`);
}

/** Ends all rows of a task, with its event, in one statement. Rows of outputs that it does not name are deleted; the API sweeps their bytes. */
async function writeTaskEnd(tx: Transaction, id: TaskId, outcome: TaskOutcome, event: Prisma.Sql, now: string): Promise<void> {
  const times = JSON.stringify(outcome.vms);
  const ranUntil = outcome.timeline.findLast(({ step }) => step === 'run')?.endedAt ?? null;
  const kept = outcome.outputs.map((output) => output.file);
  await tx.$executeRaw`
    WITH task AS (
      UPDATE "Task" SET state = ${outcome.state}::"TaskState", "exitCode" = ${outcome.exitCode}::int, refusal = NULL,
        error = ${outcome.error === null ? null : JSON.stringify(outcome.error)}::jsonb,
        outputs = ${JSON.stringify(outcome.outputs)}::jsonb,
        "skippedOutputs" = ${JSON.stringify(outcome.skipped?.listed ?? [])}::jsonb,
        "skippedOutputsCount" = ${outcome.skipped?.count ?? 0}::int, timeline = ${JSON.stringify(outcome.timeline)}::jsonb,
        "finishedAt" = ${now}::timestamptz
      WHERE id = ${id} RETURNING "leaseId"
    ), lease AS (
      UPDATE "Lease" SET "endedAt" = ${now}::timestamptz,
        "tailMs" = GREATEST(0, EXTRACT(EPOCH FROM ${now}::timestamptz - ${ranUntil}::timestamptz) * 1000)
      WHERE id IN (SELECT "leaseId" FROM task)
    ), discarded AS (
      DELETE FROM "File" WHERE "taskId" = ${id} AND NOT (id = ANY(${kept}))
    ), event AS (${event}
    )
    UPDATE "Vm" v SET "startedAt" = COALESCE(o."startedAt", v."startedAt"), "endedAt" = COALESCE(o."endedAt", v."endedAt"),
      state = CASE WHEN v.state = 'pending' THEN 'removed' ELSE v.state END
    FROM "Vm" one LEFT JOIN jsonb_to_recordset(${times}::jsonb) AS o(id text, "startedAt" timestamptz, "endedAt" timestamptz)
      ON o.id = one.id
    WHERE v.id = one.id AND one."taskId" = ${id}`;
}

function endedData(id: TaskId, row: TaskRow, outcome: TaskOutcome, now: string): TaskEndedData {
  const times = new Map(outcome.vms.map((vm) => [vm.id, vm]));
  const usage = row.vms.flatMap((vm) => {
    const { startedAt = null, endedAt = null } = times.get(vm.id) ?? {};
    return usageByHost({ ...vm, suspended: vm.asleep, startedAt, endedAt }, vm.residencies, now);
  });
  return {
    task: id,
    name: row.name,
    owner: row.ownerId,
    state: outcome.state,
    exitCode: outcome.exitCode,
    error: outcome.error,
    acceptedAt: row.createdAt.toISOString(),
    startedAt: row.startedAt?.toISOString() ?? null,
    finishedAt: now,
    usage,
    ...usageTotals(usage),
    diskMiBSeconds: diskMiBSeconds(usage, row.vms, Date.parse(now)),
    bytesIn: outcome.bytesIn,
    bytesOut: outcome.bytesOut,
    outputs: outcome.outputs.length,
    skippedOutputs: outcome.skipped?.count ?? 0,
  };
}

/** VMs that a pass placed after the workflow stopped waiting; while the task is queued, no host was asked to make them. */
function neverCreated(row: TaskRow): VmId[] {
  return row.state === 'queued' ? row.vms.filter((vm) => vm.state === 'reserved').map((vm) => vm.id) : [];
}

/** Which of a task's stored outputs: of these nodes, by these attempts or by hosts that tell none. */
interface StoredBy {
  nodes: readonly number[];
  attempts: readonly string[];
}

const storedBy = ({ nodes, attempts }: StoredBy) => ({
  node: { in: [...nodes] },
  OR: [{ attempt: null }, { attempt: { in: [...attempts] } }],
});

/** The outputs that the repository has stored of a task. */
export async function readStoredOutputs(tx: Transaction, id: TaskId, by: StoredBy | 'all'): Promise<TaskOutput[]> {
  if (by !== 'all' && by.nodes.length === 0) return [];
  const rows = await tx.file.findMany({
    where: { taskId: id, state: 'ready', ...(by === 'all' ? {} : storedBy(by)) },
    select: { id: true, node: true, name: true, sizeBytes: true, sha256: true },
    orderBy: [{ node: 'asc' }, { name: 'asc' }],
  });
  return rows.map(({ id: file, node, name, sizeBytes, sha256 }) => ({
    path: name,
    node: node ?? 0,
    file,
    sizeBytes: Number(sizeBytes),
    sha256: sha256 ?? '',
  }));
}

/** Writes a task's end, its outputs and its completion event, and settles its lease, within the caller's transaction, which has locked its row. */
export async function endTask(tx: Transaction, id: TaskId, row: TaskRow, outcome: TaskOutcome, now: string): Promise<void> {
  const { storedNodes: nodes = [], attempts = [] } = outcome;
  const outputs = [...outcome.outputs, ...(await readStoredOutputs(tx, id, { nodes, attempts }))];
  const data = endedData(id, row, { ...outcome, outputs }, now);
  const event = { type: taskEventTypes[outcome.state], subject: id, owner: row.ownerId, time: now, data };
  await writeTaskEnd(tx, id, { ...outcome, outputs }, eventInsert(event), now);
  if (row.promisedLease !== null) await writeLeaseEvent(tx, row.promisedLease, leaseEventTypes.ended, now);
  const ended = { owner: row.ownerId, task: id, usage: data.usage, disks: row.vms };
  await settleLease(tx, row.billedLease, { ...ended, error: outcome.error, now });
}

/** When a VM's domain existed, by the clock of all its other usage. */
const timesByLedgerClock = (vm: TaskOutcome['vms'][number], reportedAt: string | undefined, now: string) => ({
  id: vm.id,
  startedAt: byLedgerClock(vm.startedAt, reportedAt, now),
  endedAt: byLedgerClock(vm.endedAt, reportedAt, now),
});

async function finishOnce(deps: LedgerDeps, id: TaskId, reported: TaskOutcome): Promise<VmId[]> {
  const now = isoNow(deps);
  const outcome: TaskOutcome = { ...reported, vms: reported.vms.map((vm) => timesByLedgerClock(vm, reported.reportedAt, now)) };
  return inTransaction(deps.ledger, async (tx) => {
    const row = await lockTask(tx, id);
    if (isTerminal(row.state)) {
      // An operator has ended it, whatever its workflow has found since.
      if (row.state === outcome.state || row.errorCode === 'force-ended') return [];
      throw new BerthError('conflict', `Task ${id} is ${row.state} already; it cannot end as ${outcome.state}`);
    }
    const reserved = neverCreated(row);
    if (reserved.length > 0) return reserved;
    await endTask(tx, id, row, outcome, now);
    return [];
  });
}

/**
 * Releases the VMs of which nothing is left on a host; then writes the task's end, its outputs and its completion event
 * with the usage, once: a repeat changes nothing. VMs that were never placed are removed; one that is stuck keeps its
 * resources. Returns the workflows to notify of what was placed. Throws not-found, and conflict when the task ended
 * otherwise or cannot end so from its state.
 */
export async function finishTask(deps: LedgerDeps, id: TaskId, outcome: TaskOutcome, free: VmId[]): Promise<Notification[]> {
  // A release takes the placement lock, which precedes every row's lock, so it is a transaction of its own, and the first.
  // Once the task's VMs are removed, no pass can place it again.
  let placed = free.length === 0 ? [] : await releaseVms(deps, free);
  for (let reserved = await finishOnce(deps, id, outcome); reserved.length > 0; reserved = await finishOnce(deps, id, outcome))
    placed = await releaseVms(deps, reserved);
  return placed;
}
