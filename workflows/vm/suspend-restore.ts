import { CancellationScope } from '@temporalio/workflow';
import type { HostCalls, VmRef } from '../../contracts/host-calls.ts';
import type { LedgerActivities, Notification, OperationTarget } from '../../contracts/ledger.ts';
import type { VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { domainEndOf, taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import type { Step } from '../durable/step.ts';
import { retryOnLedger, showRefusal, type VmRun, vmHost } from './vm-run.ts';

/** A VM on which an operation runs, and the activities on its host. */
export interface OperationVm extends Omit<OperationTarget, 'vm'> {
  readonly vm: VmRef;
  readonly host: HostCalls;
  /** What its owner has to know although the operation succeeded. */
  problem: TaskError | null;
}

/** A step on the host between two transactions in the ledger. Where it failed, rollBackSuspension follows its undo. */
export interface SuspensionStep extends Step<OperationVm> {
  readonly undo: (vm: OperationVm) => Promise<void>;
  readonly begin: (ledger: LedgerActivities, id: VmId) => Promise<OperationTarget>;
  readonly commit: (ledger: LedgerActivities, id: VmId) => Promise<Notification[]>;
}

const suspendVm = async ({ host, vm }: OperationVm): Promise<void> => void (await host.suspendVm(vm));
const restoreVm = async (target: OperationVm): Promise<void> => {
  const { host, vm, diskHostAddress } = target;
  target.problem = (await host.restoreVm({ vm, diskHostAddress }))?.problem ?? null;
};

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

/** Suspends or restores a standalone VM; a failure is undone. @returns the error, or a problem of its guest; null: it is done */
export async function runOrRollBack(run: VmRun, { begin, act, undo, commit }: SuspensionStep): Promise<TaskError | null> {
  return CancellationScope.nonCancellable(async () => {
    // Before an activity was requested on the host, there is nothing to undo there.
    let undoAct = async (): Promise<void> => undefined;
    let problem: TaskError | null;
    try {
      const target = await begin(run.ledger, run.id);
      const vm: OperationVm = { ...target, host: vmHost(run, target.vm.host), problem: null };
      undoAct = () => undo(vm);
      await act(vm);
      problem = vm.problem;
    } catch (error) {
      return rollBack(run, error, undoAct);
    }
    await notifyWaiters(await retryOnLedger(run, () => commit(run.ledger, run.id)));
    return problem;
  });
}

/** Returns the VM to its state before the operation. One whose domain has ended meanwhile is stopped, or has crashed. */
async function rollBack(run: VmRun, error: unknown, undoAct: () => Promise<void>): Promise<TaskError> {
  let why = taskErrorOf(error);
  let end = domainEndOf(error);
  const undoUnlessEnded = async () => {
    try {
      await undoAct();
    } catch (undoError) {
      end = domainEndOf(undoError);
      if (end === null) throw undoError;
      why = taskErrorOf(undoError);
    }
  };
  if (end === null) await run.retry.run(undoUnlessEnded, showRefusal(run));
  const roll = () => run.ledger.rollBackSuspension(run.id, why, end !== null, end?.agoMs ?? null);
  await notifyWaiters(await retryOnLedger(run, roll));
  return why;
}
