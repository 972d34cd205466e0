import type { Notification } from '../../contracts/ledger.ts';
import type { VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, type LedgerDeps, type Transaction } from '../transaction.ts';

/** VMs that may have run are removed from `removing` alone. */
async function markRemoving(tx: Transaction, ids: readonly VmId[]): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Vm" SET state = 'removing' WHERE id = ANY(${ids}) AND state NOT IN ('pending', 'reserved', 'removing', 'removed')`;
}

/** The trigger on Vm updates the hosts' sums. */
async function markRemoved(tx: Transaction, ids: readonly VmId[], from: readonly VmState[]): Promise<number> {
  return tx.$executeRaw`
    UPDATE "Vm" SET state = 'removed', problem = NULL WHERE id = ANY(${ids}) AND state::text = ANY(${[...from]})`;
}

/**
 * Frees the capacity of these VMs, from every state: the caller knows that nothing of them is left on a host, or that they
 * were never placed. Places the queue, and returns the workflows to notify of what was placed.
 */
export async function releaseVms(deps: LedgerDeps, ids: VmId[]): Promise<Notification[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    // A task's VMs are being removed by its last step already; others have to enter that state first.
    if ((await markRemoved(tx, ids, ['pending', 'reserved', 'removing'])) < ids.length) {
      await markRemoving(tx, ids);
      await markRemoved(tx, ids, ['removing']);
    }
    return (await placeWaiting(deps, tx)).notify;
  });
}
