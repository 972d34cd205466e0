import { BerthError } from '../../model/errors.ts';
import { immediateSuspension } from '../../scheduler/leases/site/immediate-suspension.ts';
import { oneOrNotFound } from '../rows.ts';
import type { Transaction } from '../transaction.ts';
import { suspendMiBPerS } from './plan/ledger-site.ts';

interface WorkingLease {
  taskId: string;
  taskState: string;
  suspension: 'suspending' | 'suspended' | 'resuming' | null;
  /** Seconds of its time. */
  leftS: number;
  runFromS: number | null;
  vms: { host: string; memoryMiB: number; slowness: number }[];
}

/**
 * Suspends the work of a task because its money has ended, in the way in which the planner does for a promise: as an order in its row, of
 * which the planner notifies the workflow. Work that was preempted already stays suspended. Throws conflict while there is
 * nothing to suspend yet, or any more: it is asked again. Under the placement lock, as all that changes the plan.
 */
export async function suspendUnpaidWork(tx: Transaction, lease: string, nowMs: number): Promise<void> {
  const rows = await tx.$queryRaw<WorkingLease[]>`
    SELECT t.id AS "taskId", t.state::text AS "taskState", l.suspension::text AS suspension, COALESCE(l."leftS", l."durationS")::float8 AS "leftS",
      EXTRACT(EPOCH FROM l."runFrom")::float8 AS "runFromS",
      (SELECT jsonb_agg(jsonb_build_object('host', h.id, 'memoryMiB', v."memoryMiB", 'slowness', h.slowness) ORDER BY v.node)
       FROM "Vm" v JOIN "Host" h ON h.id = v."hostId" WHERE v."leaseId" = l.id AND v.state <> 'removed') AS vms
    FROM "Lease" l JOIN "Task" t ON t."leaseId" = l.id WHERE l.id = ${lease} AND l."endedAt" IS NULL`;
  const work = oneOrNotFound(rows, `lease ${lease} of a task that goes on`);
  if (work.suspension === 'suspending' || work.suspension === 'suspended') return;
  if (work.taskState !== 'running' || work.suspension !== null || work.runFromS === null)
    throw new BerthError('conflict', `Task ${work.taskId} is ${work.suspension ?? work.taskState}; it cannot be suspended now`);
  const nowS = nowMs / 1000;
  const operation = immediateSuspension(work.vms, { suspendMiBPerS }, nowS);
  const leftS = Math.max(1, work.leftS - Math.max(0, nowS - work.runFromS));
  await tx.$executeRaw`
    UPDATE "Lease" SET suspension = 'suspending', operation = ${JSON.stringify(operation)}::jsonb, "leftS" = ${leftS}, suspensions = suspensions + 1
    WHERE id = ${lease}`;
}
