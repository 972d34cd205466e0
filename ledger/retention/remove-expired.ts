import type { RemovedRows } from '../../contracts/ledger.ts';
import { isLockTimeout } from '../ledger-error.ts';
import type { LedgerDeps } from '../transaction.ts';
import { endedBefore, removeEndedTasks, removeEndedVms } from './remove-ended.ts';
import { raiseEventFloor, removeEventsBelowFloor } from './remove-events.ts';

/** Then no further step begins: with the last one, a transaction, it is within the time of a ledger activity. */
const budgetMs = 4000;

/**
 * Removes what is kept no more, in bounded steps: events, tasks and VMs that have ended. Each step is a transaction; killed in
 * between, the next call goes on.
 */
export async function removeExpired(deps: LedgerDeps): Promise<RemovedRows> {
  const endsAt = performance.now() + budgetMs;
  await raiseEventFloor(deps);
  const before = await endedBefore(deps);
  const steps = [
    () => removeEventsBelowFloor(deps),
    ...(before === null ? [] : [() => removeEndedTasks(deps, before), () => removeEndedVms(deps, before)]),
  ];
  let rows = 0;
  for (const step of steps)
    for (let removed = 1; removed > 0; ) {
      if (performance.now() > endsAt) return { rows, more: true };
      removed = await unlessLocked(step);
      rows += removed;
    }
  return { rows, more: false };
}

/** A table that is in use is removed at another time. */
async function unlessLocked(step: () => Promise<number>): Promise<number> {
  try {
    return await step();
  } catch (error) {
    if (!isLockTimeout(error)) throw error;
    return 0;
  }
}
