import { CancellationScope, ContinueAsNew, defineSignal, patched, setHandler } from '@temporalio/workflow';
import type { RunResult } from '../../contracts/host.ts';
import type { TaskId } from '../../model/ids.ts';
import { describeLost, skippedOfTask } from '../../model/outputs/skipped.ts';
import { isTerminal, type TaskState, type TerminalTaskState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import { signalName } from '../../model/temporal.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { withTimeout } from '../durable/cancellation-scopes.ts';
import { failure, taskErrorOf } from '../durable/failure.ts';
import { Progress } from '../durable/progress.ts';
import { loadOrFail, RetryForever } from '../durable/retry-forever.ts';
import type { StepRow } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';
import { commandStep, runCommands } from './command.ts';
import { finishRun } from './finish.ts';
import { keepOutputs } from './keep-outputs.ts';
import { suspendStep } from './lease-run.ts';
import { requeue, stageInUnlessPreempted, waitForPlacement } from './placement.ts';
import { removeRemaining } from './remove-remaining.ts';
import { stageOut, stageOutStep } from './stage-out.ts';
import { boot, bootStep, removeVm, stageInStep } from './start-vms.ts';
import { newLeaseRun, type TaskNode, type TaskRun, type Verdict } from './task-run.ts';

export const taskSteps: readonly StepRow[] = [
  {
    name: 'reserve',
    does: 'places the VMs in the ledger (reserveTask)',
    undoneBy: 'finishTask, which frees them; requeueTask, where a host is unreachable',
  },
  stageInStep,
  bootStep,
  commandStep,
  suspendStep,
  stageOutStep,
  {
    name: 'destroy',
    does: 'runs the undos above, last one first: success, failure and cancellation end on the same path',
    undoneBy: 'nothing: it is retried without limit',
  },
  {
    name: 'finish',
    does: 'frees the VMs, writes state, outputs and event in one transaction (finishTask)',
    undoneBy: 'nothing: it is retried without limit',
  },
];

const leaseOrderChangedSignal = defineSignal(signalName.leaseOrderChanged);
const locationChangedSignal = defineSignal(signalName.locationChanged);

/**
 * One task, from the queue to its end; see taskSteps. Cancelling this workflow cancels the task.
 * @param pace scales every wait of workflows/durable/timeouts.ts; 1 at a site.
 */
export async function runTask(id: TaskId, pace = 1): Promise<TerminalTaskState> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const retry = new RetryForever(pace);
  const task = await loadOrFail(retry, () => ledger.loadTask(id));
  const { state, remaining = [] } = task;
  if (isTerminal(state) && remaining.length === 0) return state;
  // The cancellation may have been requested before this workflow existed.
  if (task.cancelRequested) root.cancel();
  const run: TaskRun = {
    task,
    ledger,
    progress: new Progress(),
    retry,
    pace,
    state: task.state,
    exitCode: null,
    outputs: [],
    storedNodes: [],
    attempts: [],
    skipped: skippedOfTask([]),
    bytesIn: 0,
    bytesOut: 0,
    locationChanges: 0,
    boots: [],
    lease: newLeaseRun(),
  };
  setHandler(leaseOrderChangedSignal, () => {
    run.lease.ordersReceived += 1;
  });
  setHandler(locationChangedSignal, () => {
    run.locationChanges += 1;
  });

  if (isTerminal(state)) {
    await CancellationScope.nonCancellable(() => removeRemaining(run, remaining));
    return state;
  }
  const nodes: TaskNode[] = [];
  const verdict = await runToVerdict(run, nodes).catch((error): Verdict => {
    if (error instanceof ContinueAsNew) throw error;
    return root.consideredCancelled ? { state: 'cancelled', error: null } : { state: 'failed', error: taskErrorOf(error) };
  });
  return CancellationScope.nonCancellable(async () => {
    await keepOutputs(run, nodes, verdict);
    if (task.state !== 'queued' && patched('earlier-workflow-removal')) removeWhatWasStaged(nodes);
    return finishRun(run, nodes, verdict);
  });
}

/**
 * An earlier workflow of this task, which was ended from outside, may have staged in on hosts where this one has not begun yet: a last
 * effect of the earlier one can make the ledger refuse this one's first step.
 */
function removeWhatWasStaged(nodes: TaskNode[]): void {
  for (const node of nodes) if (node.saga.isUndone) node.saga.register(stageInStep.name, () => removeVm(node));
}

/** Places and runs the task, again after each requeue. `nodes` are those of the current placement. */
async function runToVerdict(run: TaskRun, nodes: TaskNode[]): Promise<Verdict> {
  if (activeStates.has(run.state)) await failInterrupted(run, nodes);
  for (;;) {
    nodes.push(...(await waitForPlacement(run)));
    const verdict = await execute(run, nodes);
    if (verdict !== null) return verdict;
    await requeue(run, nodes);
    nodes.length = 0;
    run.boots.length = 0;
  }
}

/** States in which a workflow finds its task at its start only when another workflow of the task was lost. */
const activeStates: ReadonlySet<TaskState> = new Set(['starting', 'running', 'stagingOut']);

/**
 * The task's workflow was terminated by an operator, or Temporal has lost it, and the result of its command is unknown. So
 * the task fails, and its VMs, which the ledger knows, are removed.
 */
async function failInterrupted(run: TaskRun, nodes: TaskNode[]): Promise<never> {
  nodes.push(...(await waitForPlacement(run)));
  for (const node of nodes) node.saga.register(stageInStep.name, () => removeVm(node));
  throw failure('interrupted', `Its workflow was ended from outside while it was ${run.state}; submit the task again`);
}

/** The steps on the hosts. The lease limits the command alone; the steps before and after it have limits of their own. */
async function execute(run: TaskRun, nodes: TaskNode[]): Promise<Verdict | null> {
  const ready = await withOverheadLimit(run, async () => {
    if (!(await stageInUnlessPreempted(run, nodes))) return false;
    await boot(run, nodes);
    return true;
  });
  if (!ready) return null;
  const result = await runCommands(run, nodes);
  const unmatched = await withOverheadLimit(run, () => stageOut(run, nodes));
  return verdictOf(run, result, unmatched);
}

/** Limits a step outside the lease's time to the lease's duration plus a constant. */
function withOverheadLimit<T>(run: TaskRun, act: () => Promise<T>): Promise<T> {
  const limitMs = run.task.spec.lease.durationS * 1000 + timing(run.pace).overheadLimitMs;
  run.progress.setDeadline(new Date(Date.now() + limitMs).toISOString());
  const expired = () =>
    failure(
      'lease-expired',
      `The task was still ${run.state} after ${limitMs / 1000} s, longer than its lease would have lasted`,
    );
  return withTimeout(limitMs, expired, act);
}

function verdictOf(run: TaskRun, result: RunResult, unmatched: string[]): Verdict {
  const failed = (code: TaskError['code'], message: string): Verdict => ({ state: 'failed', error: { code, message } });
  if (result.timedOut) return failed('task-timeout', `The command was ended after timeoutS, ${run.task.spec.timeoutS} s`);
  if (result.signal !== null && result.signalTold === true)
    return failed('command-failed', `The command was ended by signal ${result.signal}; its log says more`);
  if (result.signal !== null)
    return failed(
      'command-failed',
      `The command exited with ${result.exitCode}, as after signal ${result.signal}; its log says more`,
    );
  if (result.exitCode !== 0) return failed('command-failed', `The command exited with ${result.exitCode}; its log says more`);
  const { skipped, task } = run;
  if (task.spec.onMissingOutput === 'warn') return { state: 'succeeded', error: null };
  if (skipped.lost > 0) return failed('outputs-refused', describeLost(skipped));
  if (unmatched.length > 0)
    return failed('output-missing', `Nothing in /home/task matched ${unmatched.map((one) => JSON.stringify(one)).join(', ')}`);
  return { state: 'succeeded', error: null };
}
