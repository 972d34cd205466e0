import type { LeaseOrder, Notification } from '../../contracts/ledger.ts';
import { leaseEventTypes } from '../../model/events.ts';
import type { TaskId } from '../../model/ids.ts';
import { nextSlowness } from '../../scheduler/leases/lease-lifecycle.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { oneOrNotFound } from '../rows.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { writeLeaseEvent } from './lease-event.ts';

interface LeaseRow {
  id: string;
  suspension: 'suspending' | 'suspended' | 'resuming' | null;
  suspensions: number;
}

async function readLease(tx: Transaction, task: TaskId): Promise<LeaseRow> {
  const rows = await tx.$queryRaw<LeaseRow[]>`
    SELECT l.id, l.suspension, l.suspensions FROM "Task" t JOIN "Lease" l ON l.id = t."leaseId" WHERE t.id = ${task}`;
  return oneOrNotFound(rows, `task ${task}`);
}

/** The planner's current order for a task's lease, which holds until it is reported as done. */
export async function loadLeaseOrder(deps: LedgerDeps, id: TaskId): Promise<LeaseOrder> {
  const { suspension } = await readLease(deps.ledger, id);
  if (suspension === null) return 'run';
  return suspension === 'resuming' ? 'resume' : 'suspend';
}

/** Of each host of a lease, after its operation has ended now. None where its VMs are on their way out. */
async function measuredSlowness(tx: Transaction, lease: string, now: number): Promise<{ host: string; slowness: number }[]> {
  const rows = await tx.$queryRaw<{ host: string; slowness: number; fromS: number; untilS: number }[]>`
    SELECT h.id AS host, h.slowness, (l.operation->>'fromS')::float8 AS "fromS", (l.operation->>'untilS')::float8 AS "untilS"
    FROM "Lease" l JOIN "Vm" v ON v."leaseId" = l.id AND v.state NOT IN ('pending', 'removed') JOIN "Host" h ON h.id = v."hostId"
    WHERE l.id = ${lease} AND l.operation IS NOT NULL
    GROUP BY h.id, l.id HAVING NOT bool_and(v.state IN ('removing', 'stuck'))`;
  return rows.map(({ host, slowness, fromS, untilS }) => ({ host, slowness: nextSlowness(slowness, { fromS, untilS }, now) }));
}

/**
 * Records that a suspension or resumption is complete, and updates the slowness of its hosts by its duration: the plan of a
 * host that is slower than planned adapts. Under the placement lock, like everything that changes the plan.
 */
async function completeOperation(
  deps: LedgerDeps,
  task: TaskId,
  from: 'suspending' | 'resuming',
  event: 'suspended' | 'resumed',
) {
  return inTransaction(deps.ledger, async (tx): Promise<Notification[]> => {
    await lockPlacement(tx);
    const { id, suspension, suspensions } = await readLease(tx, task);
    if (suspension !== from) return [];
    const slowness = await measuredSlowness(tx, id, deps.clock() / 1000);
    const state = event === 'suspended' ? 'suspended' : null;
    await tx.$executeRaw`
      WITH host AS (
        UPDATE "Host" h SET slowness = s.slowness FROM jsonb_to_recordset(${JSON.stringify(slowness)}::jsonb) AS s(host text, slowness float8)
        WHERE h.id = s.host AND h.slowness <> s.slowness
      )
      UPDATE "Lease" SET suspension = ${state}::"Suspension", operation = NULL,
        "runFrom" = CASE WHEN ${state}::text IS NULL THEN ${isoNow(deps)}::timestamptz END
      WHERE id = ${id}`;
    await writeLeaseEvent(tx, id, leaseEventTypes[event], isoNow(deps), suspensions);
    return ['planner'];
  });
}

export const recordLeaseSuspended = (deps: LedgerDeps, id: TaskId): Promise<Notification[]> =>
  completeOperation(deps, id, 'suspending', 'suspended');
export const recordLeaseResumed = (deps: LedgerDeps, id: TaskId): Promise<Notification[]> =>
  completeOperation(deps, id, 'resuming', 'resumed');
