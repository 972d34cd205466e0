import { BerthError } from '../../model/errors.ts';
import type { TaskId } from '../../model/ids.ts';
import { isTerminal } from '../../model/states.ts';
import type { Refusal } from '../../model/task.ts';
import type { Placement } from './contract.ts';
import { inTransaction, type LedgerDeps, type Transaction } from './deps.ts';
import { lockPlacement, type Pass, placeWaiting } from './place-queue.ts';
import { readPlaced, vmSpecs } from './vm-specs.ts';

async function waitingBefore(tx: Transaction, id: TaskId): Promise<number> {
  const rows = await tx.$queryRaw<{ older: number }[]>`
    SELECT count(*)::int AS older FROM "Task" t, (SELECT "createdAt", id FROM "Task" WHERE id = ${id}) me
    WHERE t.state = 'queued' AND t."placedAt" IS NULL AND t."cancelRequestedAt" IS NULL
      AND (t."createdAt", t.id) < (me."createdAt", me.id)`;
  return rows[0]?.older ?? 0;
}

/** Behind all that a pass looks at, or no longer wanted: it waits for the queue. */
function behind(pass: Pass): Refusal {
  return { hosts: pass.hosts, failed: { queue: pass.hosts } };
}

async function pass(deps: LedgerDeps): Promise<Pass> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    return placeWaiting(deps, tx);
  });
}

/**
 * Places the queue and says what became of this task: where its VMs are (also when that was decided earlier), or why it
 * waits and behind how many older ones. Throws does-not-fit when the site could never hold it, conflict when it ended.
 */
export async function reserveTask(deps: LedgerDeps, id: TaskId): Promise<Placement> {
  const known = await readPlaced(deps.ledger, id);
  if (isTerminal(known.state)) throw new BerthError('conflict', `Task ${id} is ${known.state}; it cannot be placed`);
  if (known.placed) return { placed: true, vms: vmSpecs(deps, known) };
  const found = await pass(deps);
  const verdict = found.verdicts.get(id);
  if (verdict?.kind === 'impossible') throw doesNotFit(id, verdict.refusal);
  if (verdict?.kind === 'waits')
    return { placed: false, refusal: verdict.refusal, position: await waitingBefore(deps.ledger, id) };
  // Placed now, or by another pass while this one waited for the lock; else out of the pass's sight.
  const task = await readPlaced(deps.ledger, id);
  if (task.placed) return { placed: true, vms: vmSpecs(deps, task) };
  return { placed: false, refusal: behind(found), position: await waitingBefore(deps.ledger, id) };
}

function doesNotFit(id: TaskId, refusal: Refusal): BerthError {
  const lacking = Object.entries(refusal.failed).map(([filter, count]) => `${count} for ${filter}`);
  return new BerthError(
    'does-not-fit',
    `Task ${id} is larger than this site's ${refusal.hosts} hosts could hold, even empty: refused by ${lacking.join(', ')}`,
  );
}
