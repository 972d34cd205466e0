import type { Notification } from '../../contracts/ledger.ts';
import type { OperationTarget } from '../../contracts/ledger-vm.ts';
import { type VmRestoredData, type VmSuspendedData, vmEventTypes } from '../../model/events.ts';
import type { VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { writeEvent } from '../events/write-event.ts';
import { recordPowerTiming } from '../migrations/measurements.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, isoNow, isoOf, type LedgerDeps } from '../transaction.ts';
import { beginPowerOperation } from './begin-operation.ts';
import { writeDomainEnd } from './domains/end-domain.ts';
import { endResidency, lastUsage } from './residencies.ts';
import { lockVm, refuseUnlessState, vmEventFields } from './vm-row.ts';

/** running or paused → suspending. The file for the VM's memory is allocated on its host's disk from here on; throws no-capacity. */
export const beginSuspension = (deps: LedgerDeps, id: VmId): Promise<OperationTarget> =>
  beginPowerOperation(deps, id, ['running', 'paused'], 'suspending', 'suspended');

/**
 * suspended → restoring: allocates processors and memory again, on the host where the VM was suspended. Throws no-capacity
 * where other VMs use them since.
 */
export const beginRestoration = (deps: LedgerDeps, id: VmId): Promise<OperationTarget> =>
  beginPowerOperation(deps, id, ['suspended'], 'restoring', 'restored');

/** suspending → suspended, once: frees processors and memory. Returns the workflows to notify of what was placed there. */
export async function commitSuspension(deps: LedgerDeps, id: VmId): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    if (row.state === 'suspending') {
      const data: VmSuspendedData = { ...vmEventFields(row), suspendedAt: now, usage: await lastUsage(tx, row, now) };
      await endResidency(tx, row, now);
      await tx.$executeRaw`UPDATE "Vm" SET state = 'suspended', "resumedAt" = NULL WHERE id = ${id}`;
      await recordPowerTiming(tx, 'suspend', row, now);
      const event = { type: vmEventTypes.suspended, subject: id, owner: row.ownerId, time: now, data, n: row.generation };
      await writeEvent(tx, event, 'reject');
    } else refuseUnlessState(row, 'suspended', 'suspended');
    return (await placeWaiting(deps, tx)).notify;
  });
}

/** restoring → running, once. */
export async function commitRestoration(deps: LedgerDeps, id: VmId): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockVm(tx, id);
    if (row.state !== 'restoring') return refuseUnlessState(row, 'running', 'restored');
    const data: VmRestoredData = { ...vmEventFields(row), restoredAt: now };
    await recordPowerTiming(tx, 'resume', row, now);
    await tx.$executeRaw`UPDATE "Vm" SET state = 'running', "resumedAt" = ${now}::timestamptz, problem = NULL WHERE id = ${id}`;
    const event = { type: vmEventTypes.restored, subject: id, owner: row.ownerId, time: now, data, n: row.generation };
    await writeEvent(tx, event, 'reject');
  });
}

/**
 * Undoes a suspension or restoration that failed: the VM runs, or is suspended, as before. `lost`: it is neither, because its
 * domain ended; a standalone VM has its disks, and can be booted again. Returns the workflows to notify of what was placed.
 * @param agoMs how long ago its domain ended; null: unknown
 */
export async function rollBackSuspension(
  deps: LedgerDeps,
  id: VmId,
  why: TaskError,
  lost: boolean,
  agoMs: number | null = null,
): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    if (row.state === 'suspending' || row.state === 'restoring') {
      const state = row.state === 'suspending' ? 'running' : 'suspended';
      if (lost && row.taskId === null)
        await writeDomainEnd(tx, row, { error: why, endedAt: agoMs === null ? now : isoOf(deps.clock() - agoMs), now });
      else
        await tx.$executeRaw`
          UPDATE "Vm" SET state = ${lost ? 'stuck' : state}::"VmState", problem = ${JSON.stringify(why)}::jsonb WHERE id = ${id}`;
    }
    return (await placeWaiting(deps, tx)).notify;
  });
}
