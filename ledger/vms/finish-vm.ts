import type { Notification } from '../../contracts/ledger.ts';
import type { VmRemoval } from '../../contracts/ledger-vm.ts';
import { leaseEventTypes, type VmRemovedData, vmEventTypes } from '../../model/events.ts';
import type { VmId } from '../../model/ids.ts';
import { diskMiBSeconds } from '../../model/money/metered.ts';
import type { Usage } from '../../model/task.ts';
import { writeEvent } from '../events/write-event.ts';
import { writePromisedLeaseEvent } from '../leases/lease-event.ts';
import { byLedgerClock } from '../ledger-clock.ts';
import { settleLease } from '../market/settle-lease.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { usageUntil } from './residencies.ts';
import { usageTotals } from './usage.ts';
import { lockVm, type VmRow, vmEventFields } from './vm-row.ts';

/**
 * Nothing of a standalone VM is left on a host: removes it, with the event of its whole usage, once. Returns the workflows
 * to notify of what was placed in the capacity that it freed.
 */
export async function finishVm(deps: LedgerDeps, id: VmId, removal: VmRemoval): Promise<Notification[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    const now = isoNow(deps);
    const usage = row.state === 'removed' ? null : await removeVm(tx, row, removal, now);
    const { notify } = await placeWaiting(deps, tx);
    // After the rows of what waits, which others lock before they wait for an account.
    if (usage !== null) await settleLease(tx, row.leaseId, { ...endedVms(row, usage), error: removal.error, now });
    return notify;
  });
}

/** A standalone VM, for its lease's end. */
export const endedVms = (row: VmRow, usage: readonly Usage[]) => ({ owner: row.ownerId, task: null, usage, disks: [row] });

/** @returns all of its usage */
async function removeVm(tx: Transaction, row: VmRow, { endedAt, error, reportedAt }: VmRemoval, now: string): Promise<Usage[]> {
  const { id } = row;
  const end = byLedgerClock(endedAt, reportedAt, now) ?? now;
  const usage = await usageUntil(tx, row, end, now);
  await tx.$executeRaw`
    UPDATE "Vm" SET state = 'removing' WHERE id = ${id} AND state NOT IN ('pending', 'reserved', 'removing')`;
  await tx.$executeRaw`
    UPDATE "Vm" SET state = 'removed', operation = NULL, "operationAt" = NULL, refusal = NULL,
      problem = ${error === null ? null : JSON.stringify(error)}::jsonb,
      "endedAt" = CASE WHEN "startedAt" IS NULL THEN NULL ELSE COALESCE("endedAt", ${end}::timestamptz) END WHERE id = ${id}`;
  await writeVmRemoved(tx, row, { error, usage }, now);
  return usage;
}

/** Ends the lease of a standalone VM with it, and writes the events of both. */
export async function writeVmRemoved(
  tx: Transaction,
  row: VmRow,
  { error, usage }: Pick<VmRemovedData, 'error' | 'usage'>,
  now: string,
): Promise<void> {
  const data: VmRemovedData = {
    ...vmEventFields(row),
    error,
    startedAt: row.startedAt?.toISOString() ?? null,
    removedAt: now,
    usage,
    ...usageTotals(usage),
    diskMiBSeconds: diskMiBSeconds(usage, [row], Date.parse(now)),
  };
  await tx.$executeRaw`UPDATE "Lease" SET "endedAt" = ${now}::timestamptz WHERE id = ${row.leaseId}`;
  await writeEvent(tx, { type: vmEventTypes.removed, subject: row.id, owner: row.ownerId, time: now, data }, 'reject');
  await writePromisedLeaseEvent(tx, row.leaseId, leaseEventTypes.ended, now);
}
