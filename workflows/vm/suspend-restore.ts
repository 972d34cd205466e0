import { CancellationScope } from '@temporalio/workflow';
import type { HostActivities } from '../../contracts/host.ts';
import type { LedgerActivities, Notification, OperationTarget } from '../../contracts/ledger.ts';
import type { VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import type { Step } from '../durable/step.ts';
import { retryOnLedger, showRefusal, type VmRun, vmHost } from './vm-run.ts';

/** A VM on which an operation runs, and the activities on its host. */
export interface OperationVm extends OperationTarget {
  readonly host: HostActivities;
}

/** A step on the host between two transactions in the ledger. Where it failed, rollBackSuspension follows its undo. */
export interface SuspensionStep extends Step<OperationVm> {
  readonly undo: (vm: OperationVm) => Promise<void>;
  readonly begin: (ledger: LedgerActivities, id: VmId) => Promise<OperationTarget>;
  readonly commit: (ledger: LedgerActivities, id: VmId) => Promise<Notification[]>;
}

const suspendVm = async ({ host, vm }: OperationVm): Promise<void> => void (await host.suspendVm(vm));
const restoreVm = ({ host, vm, diskHostAddress }: OperationVm): Promise<void> => host.restoreVm({ vm, diskHostAddress });

/** Of a standalone VM or of a task's. */
export const suspension: SuspensionStep = {
  name: 'suspend',
  does: 'saves the memory, ends the domain (suspendVm)',
  undoneBy: 'restoreVm, rollBackSuspension',
  begin: (ledger, id) => ledger.beginSuspension(id),
  act: suspendVm,
  undo: restoreVm,
  commit: (ledger, id) => ledger.commitSuspension(id),
};

export const restoration: SuspensionStep = {
  name: 'restore',
  does: 'runs the VM from its saved memory (restoreVm)',
  undoneBy: 'suspendVm, rollBackSuspension',
  begin: (ledger, id) => ledger.beginRestoration(id),
  act: restoreVm,
  // Does nothing where the domain never ran.
  undo: suspendVm,
  commit: async (ledger, id) => {
    await ledger.commitRestoration(id);
    return [];
  },
};

/** Suspends or restores a standalone VM; a failure is undone. @returns the error; null: it is done */
export async function runOrRollBack(run: VmRun, { begin, act, undo, commit }: SuspensionStep): Promise<TaskError | null> {
  return CancellationScope.nonCancellable(async () => {
    // Before an activity was requested on the host, there is nothing to undo there.
    let undoAct = async (): Promise<void> => undefined;
    try {
      const target = await begin(run.ledger, run.id);
      const vm: OperationVm = { ...target, host: vmHost(run, target.vm.host) };
      undoAct = () => undo(vm);
      await act(vm);
    } catch (error) {
      return rollBack(run, error, undoAct);
    }
    await notifyWaiters(await retryOnLedger(run, () => commit(run.ledger, run.id)));
    return null;
  });
}

/** Returns the VM to its state before the operation. One that neither runs nor has its memory is lost, and stuck. */
async function rollBack(run: VmRun, error: unknown, undoAct: () => Promise<void>): Promise<TaskError> {
  const why = taskErrorOf(error);
  let lost = codeOf(error) === 'vm-lost';
  const undoUnlessLost = async () => {
    try {
      await undoAct();
    } catch (undoError) {
      if (codeOf(undoError) !== 'vm-lost') throw undoError;
      lost = true;
    }
  };
  if (!lost) await run.retry.run(undoUnlessLost, showRefusal(run));
  await notifyWaiters(await retryOnLedger(run, () => run.ledger.rollBackSuspension(run.id, why, lost)));
  return why;
}
