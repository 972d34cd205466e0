import { CancellationScope } from '@temporalio/workflow';
import type { TaskError } from '../../model/task.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import { retryOnLedger, showRefusal, type VmRun, vmHost } from './vm-run.ts';

/** Before an activity was requested on the host, there is nothing to undo there. */
const noUndo: () => Promise<unknown> = async () => undefined;

/** Saves the VM's memory and ends its domain; a failure is undone by restoreVm. @returns the error; null: it is suspended */
export async function suspend(run: VmRun): Promise<TaskError | null> {
  return CancellationScope.nonCancellable(async () => {
    let undo = noUndo;
    try {
      const { vm, diskHostAddress } = await run.ledger.beginSuspension(run.id);
      undo = () => vmHost(run, vm.host).restoreVm({ vm, diskHostAddress });
      await vmHost(run, vm.host).suspendVm(vm);
    } catch (error) {
      return rollBack(run, error, undo);
    }
    await notifyWaiters(await retryOnLedger(run, () => run.ledger.commitSuspension(run.id)));
    return null;
  });
}

/** Runs the VM from its saved memory; a failure is undone by suspendVm, which does nothing where the domain never ran. */
export async function restore(run: VmRun): Promise<TaskError | null> {
  return CancellationScope.nonCancellable(async () => {
    let undo = noUndo;
    try {
      const { vm, diskHostAddress } = await run.ledger.beginRestoration(run.id);
      undo = () => vmHost(run, vm.host).suspendVm(vm);
      await vmHost(run, vm.host).restoreVm({ vm, diskHostAddress });
    } catch (error) {
      return rollBack(run, error, undo);
    }
    await retryOnLedger(run, () => run.ledger.commitRestoration(run.id));
    return null;
  });
}

/** Returns the VM to its state before the operation. One that neither runs nor has its memory is lost, and stuck. */
async function rollBack(run: VmRun, error: unknown, undo: () => Promise<unknown>): Promise<TaskError> {
  const why = taskErrorOf(error);
  let lost = codeOf(error) === 'vm-lost';
  const undoUnlessLost = async () => {
    try {
      await undo();
    } catch (undoError) {
      if (codeOf(undoError) !== 'vm-lost') throw undoError;
      lost = true;
    }
  };
  if (!lost) await run.retry.run(undoUnlessLost, showRefusal(run));
  await notifyWaiters(await retryOnLedger(run, () => run.ledger.rollBackSuspension(run.id, why, lost)));
  return why;
}
