import { CancellationScope, condition, continueAsNew, defineSignal, setHandler } from '@temporalio/workflow';
import type { VmDesired } from '../../contracts/ledger.ts';
import type { VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { signalName } from '../../model/temporal.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { loadOrFail, RetryForever } from '../durable/retry-forever.ts';
import type { StepRow } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';
import { runOperation } from './operations.ts';
import { cancelOnRemoval, create, customizeAgain, provisionSteps } from './provision.ts';
import { remove } from './remove.ts';
import { loadDesired, type VmRun } from './vm-run.ts';

export const vmSteps: readonly StepRow[] = [
  {
    name: 'reserve',
    does: 'places the VM in the ledger (reserveVm)',
    undoneBy: 'finishVm; requeueVm, where a host is unreachable',
  },
  ...provisionSteps,
  { name: 'serve', does: "executes the owner's operations, one after the other (next table)", undoneBy: 'each by its own undo' },
  {
    name: 'remove',
    does: 'when its owner deletes the VM, its lease ends or a step before `serve` failed: removes domain and disks (removeVm), then finishVm',
    undoneBy: 'nothing: it is retried without limit',
  },
];

const signals = [signalName.placed, signalName.operationRequested, signalName.locationChanged];

/**
 * One standalone VM, from the queue to its removal; see vmSteps. The ledger holds the desired state; a signal says that it
 * has changed.
 * @param pace scales every wait of workflows/durable/timeouts.ts; 1 at a site.
 */
export async function runVm(id: VmId, pace = 1): Promise<void> {
  const ledger = onLedger(pace);
  const run: VmRun = { id, pace, ledger, progress: new Progress(), retry: new RetryForever(pace), signalsReceived: 0 };
  for (const signal of signals)
    setHandler(defineSignal(signal), () => {
      run.signalsReceived += 1;
    });
  const desired = await loadOrFail(run.retry, () => ledger.loadVmDesired(id));
  run.progress.setAttributes({ owner: desired.owner, state: desired.state, vms: [id] });
  if (desired.state === 'removed') return;
  const error = await reachAndServe(run, desired);
  await CancellationScope.nonCancellable(() => remove(run, error));
}

/**
 * Brings the VM to where it serves its owner, from wherever the ledger has it: the workflow before this one may have been
 * ended from outside. @returns why it has to be removed; null: its owner deletes it
 */
async function reachAndServe(run: VmRun, desired: VmDesired): Promise<TaskError | null> {
  if (desired.state === 'removing')
    return { code: 'interrupted', message: 'Its workflow was ended from outside while it was removed' };
  // A reboot from `stopped` is an operation, which is begun again below.
  const isNew = ['pending', 'reserved', 'creating'].includes(desired.state) && desired.operation === null;
  let error: TaskError | null = null;
  if (isNew) error = await cancelOnRemoval(run, desired, () => create(run));
  else if (desired.customized === false) error = await cancelOnRemoval(run, desired, () => customizeAgain(run));
  return error ?? serveOperations(run);
}

/** Executes operations until the VM has to be removed. @returns why; null: its owner deletes it */
async function serveOperations(run: VmRun): Promise<TaskError | null> {
  for (;;) {
    const { signalsReceived: signalsSeen } = run;
    const { state, remove, operation, leaseEndsAt } = await loadDesired(run);
    run.progress.setAttributes({ state });
    if (remove) return null;
    const leftMs = leaseEndsAt === null ? null : Date.parse(leaseEndsAt) - Date.now();
    if (leftMs !== null && leftMs <= 0) return { code: 'lease-expired', message: `Its lease ended at ${leaseEndsAt}` };
    if (operation !== null) {
      await runOperation(run, operation, state);
      continue;
    }
    run.progress.setDetail('step', `**${state}** since ${isoNow()}`);
    const pollMs = timing(run.pace).vmPollMs;
    await condition(() => run.signalsReceived > signalsSeen, leftMs === null ? pollMs : Math.min(pollMs, leftMs));
    if (isHistoryLong() && run.signalsReceived === signalsSeen) await continueAsNew<typeof runVm>(run.id, run.pace);
  }
}
