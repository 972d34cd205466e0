import type { Notification } from '../../contracts/ledger.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import type { Refusal } from '../../model/task.ts';
import { type GroupMembers, noMembers, vmRulesOf } from '../../scheduler/constraints.ts';
import { type PlacementHost, type PlacementRequest, placeQueue, type QueueVerdict } from '../../scheduler/placement.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { assignAddresses, type PlacedVm, type PlacementDecision } from './assign-addresses.ts';
import { lockPlacement } from './lock-placement.ts';
import { readPlacementHosts } from './read-hosts.ts';
import { groupsIn, readMembers } from './read-rules.ts';
import { lookahead, type QueueRow, readWaiting } from './read-waiting.ts';

/** The result of a pass. */
export interface PlacementPass {
  notify: Notification[];
  /** There is a plan, so the planner places. */
  planned: boolean;
  /** The verdict on each task or VM that the pass considered, in the queue's order. */
  verdicts: Map<TaskId | VmId, QueueVerdict>;
  hosts: number;
}

/** Refusal of a task or VM that is placed by the planner, in its time. */
export const plannedRefusal = (hosts: number): Refusal => ({ hosts, failed: { planned: hosts } });

/** Refusal of a task or VM that the pass did not consider: it is beyond the lookahead, or being cancelled. */
export const beyondQueue = ({ hosts }: PlacementPass): Refusal => ({ hosts, failed: { queue: hosts } });

/** Where the members of the queue's groups are. */
async function readQueueMembers(tx: Transaction, queue: readonly QueueRow[]): Promise<GroupMembers> {
  if (queue.every(({ rules }) => rules === null)) return noMembers;
  return readMembers(tx, groupsIn(queue.map(({ owner, rules }) => vmRulesOf(owner, rules))));
}

function decidePlacements(
  queue: QueueRow[],
  hosts: PlacementHost[],
  members: GroupMembers,
  maxOvertaken: number,
): PlacementDecision[] {
  const rows = new Map<string, QueueRow>(queue.map((row) => [row.id, row]));
  const requests: PlacementRequest[] = queue.map((row) => ({
    id: row.id,
    nodes: row.vms.length,
    perVm: row.each,
    imageId: row.imageId,
    overtaken: row.overtaken,
    hostCosts: row.hostCosts === null ? null : new Map(Object.entries(row.hostCosts)),
    rules: vmRulesOf(row.owner, row.rules),
  }));
  return placeQueue(requests, hosts, { maxOvertaken, lookahead }, members).map(({ request, verdict }) => ({
    row: rows.get(request.id)!,
    verdict,
  }));
}

/** Tasks whose row has another reason to wait, or another count of overtakings. */
export function changedRefusals(decisions: PlacementDecision[]): { id: string; refusal: Refusal; overtaken: number }[] {
  return decisions.flatMap(({ row, verdict }) => {
    if (verdict.kind === 'placed') return [];
    const overtaken = verdict.kind === 'waits' ? verdict.overtaken : row.overtaken;
    if (overtaken === row.overtaken && sameRefusal(row.refusal, verdict.refusal)) return [];
    return [{ id: row.id, refusal: verdict.refusal, overtaken }];
  });
}

function sameRefusal(a: Refusal | null, b: Refusal): boolean {
  if (a === null || a.hosts !== b.hosts) return false;
  const filters = new Set([...Object.keys(a.failed), ...Object.keys(b.failed)]);
  return [...filters].every((filter) => a.failed[filter] === b.failed[filter]);
}

/** Writes all rows of a pass in one statement. The time of a best-effort lease starts here. */
export async function writePlacements(
  tx: Transaction,
  now: string,
  placed: PlacedVm[],
  tasks: string[],
  waits: ReturnType<typeof changedRefusals>,
): Promise<void> {
  if (placed.length === 0 && waits.length === 0) return;
  await tx.$executeRaw`
    WITH vm AS (
      UPDATE "Vm" v SET state = 'reserved', "hostId" = p.host, "homeId" = p.host, generation = v.generation + 1,
        address = p.address, mac = p.mac, "placedAt" = ${now}::timestamptz, refusal = NULL
      FROM jsonb_to_recordset(${JSON.stringify(placed)}::jsonb) AS p(vm text, host text, address text, mac text)
      WHERE v.id = p.vm RETURNING v."leaseId"
    ), begun AS (
      UPDATE "Task" SET "placedAt" = ${now}::timestamptz, refusal = NULL WHERE id = ANY(${tasks})
    ), lease AS (
      UPDATE "Lease" SET "startedAt" = ${now}::timestamptz WHERE id IN (SELECT "leaseId" FROM vm)
    ), waits AS (
      SELECT w.id, w.refusal, w.overtaken FROM jsonb_to_recordset(${JSON.stringify(waits)}::jsonb) AS w(id text, refusal jsonb, overtaken int)
    ), standalone AS (
      UPDATE "Vm" v SET refusal = w.refusal, overtaken = w.overtaken FROM waits w WHERE v.id = w.id AND v.state = 'pending'
    )
    UPDATE "Task" t SET refusal = w.refusal, overtaken = w.overtaken FROM waits w WHERE t.id = w.id AND t."placedAt" IS NULL`;
}

/** While there is a plan, only the planner places: a VM that is placed in a gap of the plan has to end in time. */
function deferToPlanner(queue: QueueRow[], hosts: number): PlacementPass {
  const waits = ({ overtaken }: QueueRow): QueueVerdict => ({
    kind: 'waits',
    refusal: plannedRefusal(hosts),
    overtaken,
  });
  return { notify: ['planner'], planned: true, verdicts: new Map(queue.map((row) => [row.id, waits(row)])), hosts };
}

/**
 * Places the waiting tasks and VMs that fit now. The caller holds the placement lock, for which all placements and releases
 * wait, so it ends its transaction next: the lock is held for one read, and where something waits for two more and a write.
 */
export async function placeWaiting(deps: LedgerDeps, tx: Transaction): Promise<PlacementPass> {
  const waiting = await readWaiting(tx, isoNow(deps));
  const { hosts, queue } = waiting;
  if (waiting.planned) return deferToPlanner(queue, hosts);
  if (queue.length === 0) return { notify: waiting.placed, planned: false, verdicts: new Map(), hosts };
  const images = new Set(queue.flatMap(({ imageId }) => imageId ?? []));
  const isRuled = queue.some(({ rules }) => rules !== null);
  const members = await readQueueMembers(tx, queue);
  const found = await readPlacementHosts(tx, [...images], isRuled);
  const decisions = decidePlacements(queue, found, members, deps.control.BERTH_MAX_OVERTAKEN);
  const placed = await assignAddresses(deps, tx, decisions, hosts);
  const ids = (kind: QueueVerdict['kind']) => decisions.filter(({ verdict }) => verdict.kind === kind).map(({ row }) => row.id);
  await writePlacements(tx, isoNow(deps), placed, ids('placed'), changedRefusals(decisions));
  return {
    // Those of earlier passes as well: the process that had to notify them may have died first.
    notify: [...waiting.placed, ...ids('placed'), ...ids('impossible')],
    planned: false,
    verdicts: new Map(decisions.map(({ row, verdict }) => [row.id, verdict])),
    hosts,
  };
}

/** Runs one pass in a transaction of its own. */
export async function placeUnderLock(deps: LedgerDeps): Promise<PlacementPass> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    return placeWaiting(deps, tx);
  });
}
