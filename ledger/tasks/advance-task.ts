import type { TaskOutcome, TaskStepArgs, VmBoot } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import { leaseEventTypes, type TaskStartedData, taskEventTypes } from '../../model/events.ts';
import type { TaskId } from '../../model/ids.ts';
import { type TaskState, terminalTaskStates, type VmState, vmStates, vmTransitions } from '../../model/states.ts';
import { writeEvent } from '../events/write-event.ts';
import { writeLeaseEvent } from '../leases/lease-event.ts';
import { oneOrNotFound } from '../rows.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { recordBoots } from '../vms/boots.ts';
import { readTaskStepArgs } from './task-step-args.ts';

interface AdvancedTask {
  name: string;
  ownerId: string;
  /** The task has not ended. */
  active: boolean;
  startedBefore: boolean;
  /** Its lease, where that has a promise. */
  promisedLease: string | null;
  vms: TaskStartedData['vms'];
}

/** States from which a VM may enter this one. A task's step never places or releases VMs: that changes their hosts' sums as well. */
function statesBefore(state: VmState): VmState[] {
  if (state === 'pending' || state === 'reserved' || state === 'removed')
    throw new BerthError('internal', `BUG: a task's step cannot make its VMs ${state}`);
  // The migration or the suspension of a VM decides when the VM runs again, not its task.
  const others: readonly VmState[] = ['migrating', 'suspending', 'restoring'];
  return vmStates.filter((from) => !others.includes(from) && (vmTransitions[from] as readonly VmState[]).includes(state));
}

async function transitionTask(
  tx: Transaction,
  id: TaskId,
  state: TaskState,
  timeline: TaskOutcome['timeline'],
  vmState: VmState | undefined,
  now: string,
): Promise<AdvancedTask> {
  const readyAt = timeline.findLast(({ step }) => step === 'boot')?.endedAt ?? now;
  const rows = await tx.$queryRaw<AdvancedTask[]>`
    WITH before AS (
      SELECT id, name, "ownerId", "startedAt" IS NOT NULL AS "startedBefore", NOT (state::text = ANY(${terminalTaskStates})) AS active,
        (SELECT l.id FROM "Lease" l WHERE l.id = "leaseId" AND l."startAt" IS NOT NULL) AS "promisedLease"
      FROM "Task" WHERE id = ${id} FOR UPDATE
    ), changed AS (
      UPDATE "Task" t SET state = ${state}::"TaskState", timeline = ${JSON.stringify(timeline)}::jsonb,
        "startedAt" = CASE WHEN ${state} = 'running' THEN COALESCE(t."startedAt", ${now}::timestamptz) ELSE t."startedAt" END
      FROM before WHERE t.id = before.id AND before.active RETURNING t."leaseId"
    ), lease AS (
      -- The lease's time counts from here; the time before it is what the leads of the next leases are estimated by.
      UPDATE "Lease" SET "runFrom" = ${now}::timestamptz,
        "leadMs" = GREATEST(0, EXTRACT(EPOCH FROM ${readyAt}::timestamptz - "startedAt") * 1000)
      WHERE ${state} = 'running' AND "leadMs" IS NULL AND id IN (SELECT "leaseId" FROM changed)
    ), vm AS (
      UPDATE "Vm" SET state = ${vmState ?? null}::"VmState",
        "startedAt" = CASE WHEN ${vmState ?? null} = 'running' THEN COALESCE("startedAt", ${now}::timestamptz) ELSE "startedAt" END,
        problem = CASE WHEN ${vmState ?? null} = 'stuck' THEN problem END
      WHERE "taskId" IN (SELECT id FROM before WHERE active) AND state::text = ANY(${vmState === undefined ? [] : statesBefore(vmState)})
    )
    SELECT before.name, before."ownerId", before."startedBefore", before.active, before."promisedLease", (SELECT jsonb_agg(jsonb_build_object('vm', v.id, 'host', h.id, 'provider', h.provider) ORDER BY v.node)
                   FROM "Vm" v JOIN "Host" h ON h.id = v."hostId" WHERE v."taskId" = before.id) AS vms
    FROM before`;
  return oneOrNotFound(rows, `task ${id}`);
}

/** States whose step on the hosts takes arguments. */
const statesWithStepArgs: ReadonlySet<TaskState> = new Set(['stagingIn', 'running', 'stagingOut']);

/**
 * Changes a task's state (or only its timeline, when it is in that state already), and that of its VMs. The first time
 * that it runs is an event. A task that has ended is not changed. Returns the arguments of the step that begins, so that
 * the saga has them in the same round trip. Throws not-found, conflict for an illegal transition, and what
 * readTaskStepArgs does.
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
  const active = await inTransaction(deps.ledger, async (tx) => {
    const task = await transitionTask(tx, id, state, timeline, vmState, now);
    if (!task.active) return false;
    if (boots.length > 0) await recordBoots(tx, boots);
    if (state !== 'running' || task.startedBefore) return true;
    const data: TaskStartedData = { task: id, name: task.name, owner: task.ownerId, vms: task.vms, startedAt: now };
    await writeEvent(tx, { type: taskEventTypes.started, subject: id, owner: task.ownerId, time: now, data }, 'reject');
    if (task.promisedLease !== null) await writeLeaseEvent(tx, task.promisedLease, leaseEventTypes.started, now);
    return true;
  });
  return active && statesWithStepArgs.has(state) ? readTaskStepArgs(deps, id) : [];
}
