import type { LeaseTerm, Placement } from '../../contracts/ledger-placement.ts';
import { BerthError } from '../../model/errors.ts';
import type { TaskId } from '../../model/ids.ts';
import { isTerminal } from '../../model/states.ts';
import type { Refusal } from '../../model/task.ts';
import { refusalText } from '../placement/fit.ts';
import { beyondQueue, type PlacementPass, placeUnderLock } from '../placement/place-queue.ts';
import type { LedgerDeps, Transaction } from '../transaction.ts';
import { type PlacedTask, prefetchFor, readPlacedTask } from '../vms/placed-vms.ts';
import { vmRefs } from '../vms/vm-specs.ts';

async function queuePosition(tx: Transaction, id: TaskId): Promise<number> {
  const rows = await tx.$queryRaw<{ older: number }[]>`
    SELECT count(*)::int AS older FROM "Task" t, (SELECT "createdAt", id FROM "Task" WHERE id = ${id}) me
    WHERE t.state = 'queued' AND t."placedAt" IS NULL AND t."cancelRequestedAt" IS NULL
      AND (t."createdAt", t.id) < (me."createdAt", me.id)`;
  return rows[0]?.older ?? 0;
}

/**
 * Places the queue, and returns the placement of this task's VMs (also when an earlier pass made it), or why the task waits
 * and how many older ones precede it. Throws does-not-fit when the site could never hold it, promise-broken, and conflict
 * when the task has ended.
 */
export async function reserveTask(deps: LedgerDeps, id: TaskId): Promise<Placement> {
  const before = await readPlacedTask(deps.ledger, id);
  if (isTerminal(before.state)) throw new BerthError('conflict', `Task ${id} is ${before.state}; it cannot be placed`);
  if (before.placed) return { placed: true, vms: vmRefs(before), term: termOf(before) };
  if (isPromiseOver(deps, before)) throw promiseBroken(before);
  const pass = await placeUnderLock(deps);
  const verdict = pass.verdicts.get(id);
  if (verdict?.kind === 'impossible') throw doesNotFit(id, verdict.refusal);
  if (verdict?.kind === 'waits') return { ...(await waitingPlacement(deps, id, pass)), refusal: verdict.refusal };
  // The task was placed by this pass, or by another one while this one waited for the lock; or it is beyond the lookahead.
  const task = await readPlacedTask(deps.ledger, id);
  if (task.placed) return { placed: true, vms: vmRefs(task), term: termOf(task) };
  return { ...(await waitingPlacement(deps, id, pass)), refusal: beyondQueue(pass) };
}

const termOf = ({ startAt, endAt }: PlacedTask): LeaseTerm | null =>
  startAt === null || endAt === null ? null : { startAt, endAt };

/** Whether the whole promised time has passed without hosts for the task. */
function isPromiseOver(deps: LedgerDeps, { startAt, durationS }: PlacedTask): boolean {
  return startAt !== null && Date.parse(startAt) + durationS * 1000 <= deps.clock();
}

function promiseBroken({ id, startAt, durationS }: PlacedTask): BerthError {
  return new BerthError(
    'promise-broken',
    `Task ${id} was promised ${durationS} s from ${startAt} on, and in all of that time there were no hosts for it: see which were away`,
  );
}

/** What the workflow of a waiting task needs: its position, and the hosts that need its image. */
async function waitingPlacement(deps: LedgerDeps, id: TaskId, { planned }: PlacementPass): Promise<WaitingPlacement> {
  const task = await readPlacedTask(deps.ledger, id);
  return {
    placed: false,
    position: await queuePosition(deps.ledger, id),
    term: termOf(task),
    planActive: planned,
    prefetch: prefetchFor(task),
  };
}

type WaitingPlacement = Omit<Extract<Placement, { placed: false }>, 'refusal'>;

function doesNotFit(id: TaskId, refusal: Refusal): BerthError {
  return new BerthError(
    'does-not-fit',
    `Task ${id} is larger than this site's ${refusal.hosts} hosts could hold, even empty: refused by ${refusalText(refusal)}`,
  );
}
