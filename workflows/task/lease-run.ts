import { CancellationScope, condition, isCancellation, patched, sleep } from '@temporalio/workflow';
import type { OperationTarget } from '../../contracts/ledger.ts';
import { Backoff } from '../durable/backoff.ts';
import { allOrCancel } from '../durable/cancellation-scopes.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import type { StepRow } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';
import { restoration, type SuspensionStep, suspension } from '../vm/suspend-restore.ts';
import { relocate, updateLocation, waitUntilNodeSettled } from './node-location.ts';
import type { TaskNode, TaskRun } from './task-run.ts';

export const suspendStep: StepRow = {
  name: 'suspend',
  does: 'when the plan preempts the task while its command runs: saves the memory and ends the domain, on all nodes or on none',
  undoneBy: '`resume`, when the plan orders it, or when one node could not be suspended',
};

/** A lease that covers the command's time ends after the guest has ended the command, so that the outputs are kept. */
function queuedLeaseMs({ task, pace }: TaskRun): number {
  const { lease, timeoutS } = task.spec;
  const commandMs = timeoutS * 1000 + timing(pace).runGraceMs;
  return lease.durationS < timeoutS ? lease.durationS * 1000 : Math.max(lease.durationS * 1000, commandMs);
}

/**
 * Starts the lease's time: at its fixed start, for which the VMs are ready early, or now. @returns how long it lasts, in ms
 */
export async function startLease(run: TaskRun): Promise<number> {
  const { lease, progress } = run;
  const { term, stopwatch } = lease;
  if (term === null) {
    stopwatch.start();
    return queuedLeaseMs(run);
  }
  const earlyMs = Date.parse(term.startAt) - Date.now();
  if (earlyMs > 0) {
    progress.setDetail('step', `**ready**; starts at ${term.startAt}`);
    await sleep(earlyMs);
  }
  stopwatch.start();
  return Math.max(1, Date.parse(term.endAt) - Date.now());
}

/**
 * Runs an act in VMs that the plan may suspend and resume meanwhile. It returns when all orders are completed and all VMs
 * run, so that the next step finds guests that answer.
 */
export async function runUnderLease<T>(run: TaskRun, nodes: TaskNode[], act: () => Promise<T>): Promise<T> {
  const following = new CancellationScope();
  const working = new CancellationScope();
  let done = false;
  let failed: unknown = null;
  const followed = following
    .run(() => followLeaseOrders(run, nodes, () => done))
    .catch((error) => {
      if (isCancellation(error)) return;
      failed = error;
      working.cancel();
    });
  try {
    const result = await working.run(act);
    done = true;
    await followed;
    if (failed !== null) throw failed;
    return result;
  } catch (error) {
    throw failed ?? error;
  } finally {
    following.cancel();
    await followed;
  }
}

async function followLeaseOrders(run: TaskRun, nodes: TaskNode[], done: () => boolean): Promise<void> {
  const { lease } = run;
  const isOver = () => done() && lease.state === 'running';
  // An order that arrived before the guests answered is executed first.
  for (let ordersSeen = 0; ; ) {
    if (lease.ordersReceived > ordersSeen) {
      ordersSeen = lease.ordersReceived;
      await applyLeaseOrder(run, nodes);
    } else if (isOver()) return;
    else await condition(() => lease.ordersReceived > ordersSeen || isOver());
  }
}

/** Reads the plan's order from the ledger and executes it; for a repeated order it repeats the confirmation. */
async function applyLeaseOrder(run: TaskRun, nodes: TaskNode[]): Promise<void> {
  const { lease, ledger, task } = run;
  const order = await ledger.loadLeaseOrder(task.id);
  if (order === 'run') return;
  if (order === 'suspend') {
    if (lease.state === 'running' && !(await suspendAll(run, nodes))) return;
    await notifyWaiters(await ledger.recordLeaseSuspended(task.id));
  } else {
    if (lease.state === 'suspended') await resumeAll(run, nodes);
    await notifyWaiters(await ledger.recordLeaseResumed(task.id));
  }
}

const labelsOf = (nodes: readonly TaskNode[]): string[] => nodes.map(({ label }) => label);

/** Suspends all nodes, or none. @returns whether they are suspended */
async function suspendAll(run: TaskRun, nodes: TaskNode[]): Promise<boolean> {
  const { lease, progress } = run;
  lease.state = 'suspending';
  lease.stopwatch.stop();
  try {
    await progress.trackStep(suspendStep.name, labelsOf(nodes), (done) =>
      allOrCancel(nodes.map((node) => () => suspendNode(node).then(() => done(node.label)))),
    );
  } catch (error) {
    if (isCancellation(error)) throw error;
    progress.setDetail('suspend', `**it could not be suspended**, and continues to run: ${taskErrorOf(error).message}`);
    await resumeAll(run, nodes);
    // Not at once: a repetition would probably be refused as well. The plan orders no other before this one is reported.
    lease.refusedBackoff ??= new Backoff(timing(run.pace).refusedBackoff);
    await sleep(lease.refusedBackoff.next());
    await notifyWaiters(await run.ledger.recordLeaseResumed(run.task.id));
    return false;
  }
  lease.state = 'suspended';
  lease.refusedBackoff = null;
  progress.setDetail(
    'step',
    '**suspended**, for a lease with a fixed start or because its money has ended; it is resumed when there is room and money again',
  );
  progress.setAttributes({ state: 'suspended' });
  return true;
}

async function suspendNode(node: TaskNode): Promise<void> {
  updateLocation(node, await waitUntilNodeSettled(node, true));
  await runOnNode(node, suspension);
}

/** A failure is not undone here: suspendAll undoes it on all nodes, and one of a restoration ends the task. */
async function runOnNode(node: TaskNode, step: SuspensionStep): Promise<void> {
  const target = await beginOnNode(node, step);
  await step.act({ ...target, host: node.host, problem: null });
  await notifyWaiters(await step.commit(node.run.ledger, node.vm.id));
}

/** May be repeated: what it has begun is not begun again. */
async function beginOnNode(node: TaskNode, { begin }: SuspensionStep): Promise<OperationTarget> {
  const target = await begin(node.run.ledger, node.vm.id);
  relocate(node, target.vm);
  node.diskHostAddress = target.diskHostAddress;
  return target;
}

/** Restores all nodes where their memory is, including those whose suspension failed. */
async function resumeAll(run: TaskRun, nodes: TaskNode[]): Promise<void> {
  const { lease, progress } = run;
  lease.state = 'resuming';
  await progress.trackStep('resume', labelsOf(nodes), (done) =>
    allOrCancel(nodes.map((node) => () => resumeNode(node).then(() => done(node.label)))),
  );
  lease.state = 'running';
  lease.stopwatch.start();
  progress.setAttributes({ state: run.state });
}

async function resumeNode(node: TaskNode): Promise<void> {
  const { ledger } = node.run;
  const { id } = node.vm;
  const { state, generation } = await ledger.loadVmLocation(id);
  // One that somebody has paused at its host is neither: it is resumed there, and its command goes on.
  if (state === 'running' || state === 'paused') return;
  if (state === 'suspending') {
    // It has begun, and its answer was lost: hosts know the VM by the generation of that.
    if (generation !== node.vm.generation && patched('begin-suspension-again')) await beginOnNode(node, suspension);
    await suspension.undo({ host: node.host, vm: node.vm, diskHostAddress: node.diskHostAddress, problem: null });
    return notifyWaiters(
      await ledger.rollBackSuspension(id, { code: 'internal', message: 'another VM of its task could not be suspended' }, false),
    );
  }
  await runOnNode(node, restoration);
}
