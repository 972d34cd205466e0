import type { DrainKey, OperationTarget } from '../../contracts/ledger-vm.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { hasEnded, type VmState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import { currentMachine, saysDomainEnded } from '../../model/vm.ts';
import { type VmOperation, vmOperations } from '../../model/vm-request.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { requestRestartAfterOperation } from './domains/host-restarted.ts';
import { writePaused, writeResumed } from './domains/pauses.ts';
import { readPlacedVm } from './placed-vms.ts';
import { lockVm, type VmRow } from './vm-row.ts';
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
 * @param state null: the operation has none of its own, and a repeat gives the VM another generation: the last one counts
 */
export async function beginPowerOperation(
  deps: LedgerDeps,
  id: VmId,
  from: readonly VmState[],
  state: VmState | null,
  participle: string,
): Promise<OperationTarget> {
  return inTransaction(deps.ledger, async (tx) => {
    // A restoration allocates capacity, and allocations grow under this lock alone.
    await lockPlacement(tx);
    const row = await lockVm(tx, id);
    if (row.state !== state) {
      if (!from.includes(row.state))
        throw new BerthError('conflict', `VM ${id} is ${row.state}: only one that is ${from.join(' or ')} can be ${participle}`);
      if (row.migrating)
        throw new BerthError('conflict', `VM ${id} migrates: it cannot be ${participle} before its migration has ended`);
      await tx.$executeRaw`
        UPDATE "Vm" SET state = COALESCE(${state}::"VmState", state), generation = generation + 1,
          machine = CASE WHEN ${state} = 'creating' THEN ${currentMachine} ELSE machine END WHERE id = ${id}`;
    }
    return readOperationTarget(deps, tx, id);
  });
}

/** Gives the VM a new generation for an operation that has no state of its own. */
export const beginOperation = (deps: LedgerDeps, id: VmId, operation: VmOperation): Promise<OperationTarget> => {
  const from = vmOperations[operation].from.filter((state) => state === 'running' || state === 'paused');
  return beginPowerOperation(deps, id, from, null, `asked to ${operation}`);
};

/** stopped or crashed → creating, with a new generation: the VM boots again from its disks. */
export const beginStart = (deps: LedgerDeps, id: VmId): Promise<OperationTarget> =>
  beginPowerOperation(deps, id, ['stopped', 'crashed'], 'creating', 'started');

/**
 * The requested operation has succeeded, or failed with an error for the owner. A repeat does not touch an operation that
 * was requested since. Where it has found the domain ended, a VM that is always to run is started again. Returns the drains
 * that wait for it.
 */
export async function endOperation(
  deps: LedgerDeps,
  id: VmId,
  operation: VmOperation,
  to: VmState | null,
  error: TaskError | null,
): Promise<DrainKey[]> {
  const problem = error === null ? null : JSON.stringify(error);
  // Then the VM's problem says how its domain ended.
  const ended = error !== null && saysDomainEnded(error.code);
  return inTransaction(deps.ledger, async (tx) => {
    const row = await lockVm(tx, id);
    const { operation: underWay } = await tx.vm.findUniqueOrThrow({ where: { id }, select: { operation: true } });
    if (underWay === operation) {
      if (to !== null && to !== row.state) await enterPowerState(tx, row, to, isoNow(deps));
      await tx.$executeRaw`
        UPDATE "Vm" SET operation = NULL, "operationAt" = NULL,
          problem = CASE WHEN state = 'stuck' OR (state IN ('stopped', 'crashed') AND ${ended}) THEN problem ELSE ${problem}::jsonb END
        WHERE id = ${id}`;
      if (error !== null && hasEnded(row.state))
        await requestRestartAfterOperation(tx, { id, code: error.code, now: isoNow(deps) });
    }
    return tx.$queryRaw<DrainKey[]>`
      SELECT d."hostId" AS host, d.number FROM "DrainSuspension" s JOIN "Drain" d ON d.id = s."drainId"
      WHERE s."vmId" = ${id} AND d."finishedAt" IS NULL ORDER BY d.id`;
  });
}

async function enterPowerState(tx: Transaction, row: VmRow, to: VmState, now: string): Promise<void> {
  if (to === 'paused') await writePaused(tx, row, 'owner', now);
  else if (to === 'running' && row.state === 'paused') await writeResumed(tx, row, now);
  else await tx.$executeRaw`UPDATE "Vm" SET state = ${to}::"VmState" WHERE id = ${row.id}`;
}
