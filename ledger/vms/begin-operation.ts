import type { DrainKey, OperationTarget } from '../../contracts/ledger-vm.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import type { VmOperation } from '../../model/vm-request.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, type LedgerDeps, type Transaction } from '../transaction.ts';
import { readPlacedVm } from './placed-vms.ts';
import { lockVm } from './vm-row.ts';
import { specOf } from './vm-specs.ts';

async function readOperationTarget(deps: LedgerDeps, tx: Transaction, id: VmId): Promise<OperationTarget> {
  const placed = await readPlacedVm(tx, id);
  const vm = specOf(deps, placed, id);
  const home = placed.hosts.find((host) => host.id === vm.home);
  return { vm, diskHostAddress: vm.home === vm.host ? null : (home?.address ?? null) };
}

/**
 * Begins an operation on a VM where it runs: enters the state of the operation, with a new generation that fences all
 * earlier requests to its host. A repeat finds the operation begun. Throws conflict from any other state, and while the VM
 * migrates.
 */
export async function beginPowerOperation(
  deps: LedgerDeps,
  id: VmId,
  from: VmState,
  state: VmState,
  participle: string,
): Promise<OperationTarget> {
  return inTransaction(deps.ledger, async (tx) => {
    // A restoration allocates capacity, and allocations grow under this lock alone.
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    if (row.state !== state || from === state) {
      if (row.state !== from)
        throw new BerthError('conflict', `VM ${id} is ${row.state}: only one that is ${from} can be ${participle}`);
      if (row.migrating)
        throw new BerthError('conflict', `VM ${id} migrates: it cannot be ${participle} before its migration has ended`);
      await tx.$executeRaw`UPDATE "Vm" SET state = ${state}::"VmState", generation = generation + 1 WHERE id = ${id}`;
    }
    return readOperationTarget(deps, tx, id);
  });
}

/** Gives the VM a new generation for an operation that has no state of its own. A repeat gives it another: the last one counts. */
export const beginOperation = (deps: LedgerDeps, id: VmId, operation: VmOperation): Promise<OperationTarget> => {
  const from = operation === 'resume' ? 'paused' : 'running';
  return beginPowerOperation(deps, id, from, from, `asked to ${operation}`);
};

/** stopped → creating, with a new generation: the VM boots again from its disks. */
export const beginStart = (deps: LedgerDeps, id: VmId): Promise<OperationTarget> =>
  beginPowerOperation(deps, id, 'stopped', 'creating', 'started');

/**
 * The requested operation has succeeded, or failed with an error for the owner. A repeat does not touch an operation that
 * was requested since. Returns the drains that wait for it.
 */
export async function endOperation(
  deps: LedgerDeps,
  id: VmId,
  operation: VmOperation,
  to: VmState | null,
  error: TaskError | null,
): Promise<DrainKey[]> {
  const problem = error === null ? null : JSON.stringify(error);
  return inTransaction(deps.ledger, async (tx) => {
    await tx.$executeRaw`
      UPDATE "Vm" SET operation = NULL, "operationAt" = NULL,
        state = COALESCE(${to}::"VmState", state),
        problem = CASE WHEN state = 'stuck' THEN problem ELSE ${problem}::jsonb END
      WHERE id = ${id} AND operation = ${operation}::"VmOperation"`;
    return tx.$queryRaw<DrainKey[]>`
      SELECT d."hostId" AS host, d.number FROM "DrainSuspension" s JOIN "Drain" d ON d.id = s."drainId"
      WHERE s."vmId" = ${id} AND d."finishedAt" IS NULL ORDER BY d.id`;
  });
}
