import type { TaskOutcome, TaskStepArgs, VmBoot } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import { leaseEventTypes, type TaskStartedData, taskEventTypes } from '../../model/events.ts';
import type { TaskId } from '../../model/ids.ts';
import { type TaskState, terminalTaskStates, type VmState, vmStates, vmTransitions } from '../../model/states.ts';
import { writeEvent } from '../events/write.ts';
import { writeLeaseEvent } from '../leases/lease-event.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { readTaskOrders } from './task-step-args.ts';

interface AdvancedTask {
  name: string;
  ownerId: string;
  /** Whether the task still moves. */
  live: boolean;
  begunBefore: boolean;
  /** Its lease, where that has a promise. */
  promised: string | null;
  vms: TaskStartedData['vms'];
}

/** States from which a VM may go to this one. A placement or its end is never made here, but with its host's sums. */
function statesBefore(state: VmState): VmState[] {
  if (state === 'pending' || state === 'reserved' || state === 'removed')
    throw new BerthError('internal', `BUG: a task's step cannot make its VMs ${state}`);
  // A VM that moves, is suspended or comes back is its migration's or its suspension's: it alone knows when it runs again.
  const others: readonly VmState[] = ['migrating', 'suspending', 'restoring'];
  return vmStates.filter((from) => !others.includes(from) && (vmTransitions[from] as readonly VmState[]).includes(state));
}

async function transitionTask(
  tx: Transaction,
  id: TaskId,
  state: TaskState,
  timeline: TaskOutcome['timeline'],
  now: string,
): Promise<AdvancedTask | undefined> {
  const readyAt = timeline.findLast(({ step }) => step === 'boot')?.endedAt ?? now;
  const rows = await tx.$queryRaw<AdvancedTask[]>`
    WITH was AS (
      SELECT id, name, "ownerId", "startedAt" IS NOT NULL AS "begunBefore", NOT (state::text = ANY(${terminalTaskStates})) AS live,
        (SELECT l.id FROM "Lease" l WHERE l.id = "leaseId" AND l."startAt" IS NOT NULL) AS promised
      FROM "Task" WHERE id = ${id} FOR UPDATE
    ), moved AS (
      UPDATE "Task" t SET state = ${state}::"TaskState", timeline = ${JSON.stringify(timeline)}::jsonb,
        "startedAt" = CASE WHEN ${state} = 'running' THEN COALESCE(t."startedAt", ${now}::timestamptz) ELSE t."startedAt" END
      FROM was WHERE t.id = was.id AND was.live RETURNING t."leaseId"
    ), lease AS (
      -- Its time counts from here; what came before is what the next ones will take as well.
      UPDATE "Lease" SET "runFrom" = ${now}::timestamptz,
        "leadMs" = GREATEST(0, EXTRACT(EPOCH FROM ${readyAt}::timestamptz - "startedAt") * 1000)
      WHERE ${state} = 'running' AND "leadMs" IS NULL AND id IN (SELECT "leaseId" FROM moved)
    )
    SELECT was.*, (SELECT jsonb_agg(jsonb_build_object('vm', v.id, 'host', h.id, 'provider', h.provider) ORDER BY v.node)
                   FROM "Vm" v JOIN "Host" h ON h.id = v."hostId" WHERE v."taskId" = was.id) AS vms
    FROM was`;
  return rows[0];
}

async function transitionVms(tx: Transaction, id: TaskId, state: VmState, now: string): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Vm" SET state = ${state}::"VmState",
      "startedAt" = CASE WHEN ${state} = 'running' THEN COALESCE("startedAt", ${now}::timestamptz) ELSE "startedAt" END,
      problem = CASE WHEN ${state} = 'stuck' THEN problem END
    WHERE "taskId" = ${id} AND state::text = ANY(${statesBefore(state)})`;
}

/** Those whose step on the hosts takes orders. */
const statesWithOrders: ReadonlySet<TaskState> = new Set(['stagingIn', 'running', 'stagingOut']);

/** How VMs came to life, for their owners and the metrics. */
export async function recordBoots(tx: Transaction, boots: VmBoot[]): Promise<void> {
  const rows = boots.map(({ vm, boot }) => ({ vm, boot: boot.kind, why: boot.kind === 'cold' ? boot.why : null }));
  await tx.$executeRaw`
    UPDATE "Vm" v SET boot = b.boot, "bootWhy" = b.why
    FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS b(vm text, boot text, why text)
    WHERE v.id = b.vm AND (v.boot, v."bootWhy") IS DISTINCT FROM (b.boot, b.why)`;
}

/**
 * Moves a task to a state (or only its timeline, when it is there already), and its VMs with it. The first time that it
 * runs is an event. A task that has ended is left alone. Returns the orders for the step that begins, taken after the
 * move: so that the saga has them in the same round trip. Throws not-found, conflict for a move that isn't legal, and
 * what ordersOfTask does.
 */
export async function advanceTask(
  deps: LedgerDeps,
  id: TaskId,
  state: TaskState,
  timeline: TaskOutcome['timeline'],
  vmState?: VmState,
  boots: VmBoot[] = [],
): Promise<TaskStepArgs[]> {
  const now = isoNow(deps);
  const live = await inTransaction(deps.ledger, async (tx) => {
    const task = await transitionTask(tx, id, state, timeline, now);
    if (task === undefined) throw new BerthError('not-found', `There is no task ${id} in the ledger`);
    if (!task.live) return false;
    if (vmState !== undefined) await transitionVms(tx, id, vmState, now);
    if (boots.length > 0) await recordBoots(tx, boots);
    if (state !== 'running' || task.begunBefore) return true;
    const data: TaskStartedData = { task: id, name: task.name, owner: task.ownerId, vms: task.vms, startedAt: now };
    await writeEvent(tx, { type: taskEventTypes.started, subject: id, owner: task.ownerId, time: now, data });
    if (task.promised !== null) await writeLeaseEvent(tx, task.promised, leaseEventTypes.started, now);
    return true;
  });
  return live && statesWithOrders.has(state) ? readTaskOrders(deps, id) : [];
}
