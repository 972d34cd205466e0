import { hasEnded, type VmState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { stateAfterEnd } from '../../model/vm.ts';
import type { VmOperation } from '../../model/vm-request.ts';
import { domainEndOf, taskErrorOf } from '../durable/failure.ts';
import { notify } from '../durable/other-workflows.ts';
import { isoNow } from '../durable/progress.ts';
import type { Step, StepRow } from '../durable/step.ts';
import { type OperationVm, restoration, runOrRollBack, suspension } from './suspend-restore.ts';
import { bootDomain, markStuck, retryOnLedger, showRefusal, type VmRun, vmHost } from './vm-run.ts';

/** An operation that is one step on the host, and leaves the VM in the state `to`. */
interface HostOperation extends Step<OperationVm> {
  readonly to: 'running' | 'paused';
}

const hostOperations = {
  pause: {
    name: 'pause',
    does: "stops the guest's processors (pauseVm)",
    undoneBy: 'resumeVm',
    act: ({ host, vm }) => host.pauseVm(vm),
    undo: ({ host, vm }) => host.resumeVm(vm),
    to: 'paused',
  },
  resume: {
    name: 'resume',
    does: "starts the guest's processors (resumeVm)",
    undoneBy: 'pauseVm',
    act: async (target) => {
      target.problem = (await target.host.resumeVm(target.vm))?.problem ?? null;
    },
    undo: ({ host, vm }) => host.pauseVm(vm),
    to: 'running',
  },
  reboot: {
    name: 'reboot',
    does: 'boots the guest again (rebootVm); from `stopped` and `crashed`, starts its domain (ensureRunning)',
    undoneBy: 'nothing: a VM that can not be started is stuck',
    act: ({ host, vm }) => host.rebootVm(vm),
    undo: null,
    to: 'running',
  },
} as const satisfies Partial<Record<VmOperation, HostOperation>>;

/** Each operation is a saga of one step on the host, between two transactions in the ledger. */
export const operationSteps: readonly StepRow[] = [...Object.values(hostOperations), suspension, restoration];

/** Runs one operation to its end, and writes its result or its error for the owner. */
export async function runOperation(run: VmRun, operation: VmOperation, state: VmState): Promise<void> {
  run.progress.setDetail('step', `**${operation}** since ${isoNow()}`);
  let to: 'running' | 'paused' | null = null;
  let error: TaskError | null = null;
  try {
    if (operation === 'suspend') error = await runOrRollBack(run, suspension);
    else if (operation === 'restore') error = await runOrRollBack(run, restoration);
    else if (operation === 'reboot' && hasEnded(state)) await startStopped(run);
    else ({ to, problem: error } = await runOnHost(run, operation, state));
  } catch (failed) {
    const why = taskErrorOf(failed);
    error = why;
    const end = domainEndOf(failed);
    if (end !== null) await retryOnLedger(run, () => run.ledger.recordVmMissing(run.id, why, end.agoMs));
  }
  const end = () => run.ledger.endOperation(run.id, operation, to, error);
  for (const { host, number } of await retryOnLedger(run, end))
    await notify(workflowId.drain(host, number), signalName.orderChanged);
}

/**
 * A failed act may have taken effect: its undo brings the guest back to the state that the ledger has.
 * @returns the VM's state after it, and a problem of its guest that did not stop the operation
 */
async function runOnHost(
  run: VmRun,
  operation: keyof typeof hostOperations,
  before: VmState,
): Promise<{ to: HostOperation['to']; problem: TaskError | null }> {
  const target = await run.ledger.beginOperation(run.id, operation);
  const { act, undo, to }: HostOperation = hostOperations[operation];
  const vm: OperationVm = { ...target, host: vmHost(run, target.vm.host), problem: null };
  try {
    await act(vm);
    return { to, problem: vm.problem };
  } catch (error) {
    // Where the ledger had the VM in that state before, there is nothing to go back to.
    if (undo !== null && before !== to && domainEndOf(error) === null)
      await run.retry.run(
        () => undo(vm),
        (undoError) => {
          if (domainEndOf(undoError) !== null) throw undoError;
          showRefusal(run)(undoError);
        },
      );
    throw error;
  }
}

/** Boots a VM without a domain from its disks. One that ends while it boots is stopped or crashed again. */
async function startStopped(run: VmRun): Promise<void> {
  try {
    const { vm, diskHostAddress } = await run.ledger.beginStart(run.id);
    await bootDomain(run, vm, diskHostAddress);
  } catch (error) {
    const why = taskErrorOf(error);
    if (domainEndOf(error) === null) await markStuck(run, why);
    else await retryOnLedger(run, () => run.ledger.setVmState(run.id, stateAfterEnd(why), why));
    throw error;
  }
}
