import { CancellationScope, condition, isCancellation, sleep } from '@temporalio/workflow';
import type { LeaseTerm } from '../../contracts/ledger-placement.ts';
import { allOrCancel } from '../durable/cancellation-scopes.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/notify.ts';
import { Stopwatch } from '../durable/stopwatch.ts';
import { timing } from '../durable/timeouts.ts';
import { relocate, updateLocation, waitUntilSettled } from './node-location.ts';
import type { Node, TaskRun } from './task-steps.ts';

/** A task's lease at work: what the plan wants of it, and how much of its time has passed. */
export interface LeaseRun {
  /** How often the plan has asked for something. */
  ordersReceived: number;
  state: 'running' | 'suspending' | 'suspended' | 'resuming';
  /** Of a promise; null: its time counts from when it runs. */
  term: LeaseTerm | null;
  readonly stopwatch: Stopwatch;
}

export const newLeaseRun = (): LeaseRun => ({ ordersReceived: 0, state: 'running', term: null, stopwatch: new Stopwatch() });

/**
 * A promise is kept by being early: the VMs are there, and the work begins at its time. A lease without one begins now.
 * @returns how long it may run, in ms
 */
export async function startLease({ lease, progress, task }: TaskRun): Promise<number> {
  const { term, stopwatch: watch } = lease;
  if (term === null) {
    watch.start();
    return task.spec.lease.durationS * 1000;
  }
  const earlyMs = Date.parse(term.startAt) - Date.now();
  if (earlyMs > 0) {
    progress.setDetail('step', `**ready**; starts at ${term.startAt}`);
    await sleep(earlyMs);
  }
  watch.start();
  return Math.max(1, Date.parse(term.endAt) - Date.now());
}

/**
 * Runs an act in VMs that the plan may suspend and resume meanwhile. What the plan asked for is finished before this
 * returns, and VMs that were suspended run again by then: so whoever follows finds guests that answer.
 */
export async function runUnderLease<T>(run: TaskRun, nodes: Node[], act: () => Promise<T>): Promise<T> {
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

async function followLeaseOrders(run: TaskRun, nodes: Node[], done: () => boolean): Promise<void> {
  const { lease } = run;
  const isOver = () => done() && lease.state === 'running';
  // Asked for before the guests answered: it is done first.
  for (let ordersSeen = 0; ; ) {
    if (lease.ordersReceived > ordersSeen) {
      ordersSeen = lease.ordersReceived;
      await applyLeaseOrder(run, nodes);
    } else if (isOver()) return;
    else await condition(() => lease.ordersReceived > ordersSeen || isOver());
  }
}

/** The ledger says what is wanted; a repeated question is answered by saying again what is so. */
async function applyLeaseOrder(run: TaskRun, nodes: Node[]): Promise<void> {
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

const labelsOf = (nodes: readonly Node[]): string[] => nodes.map(({ label }) => label);

/** Out of memory, on all nodes or on none. */
async function suspendAll(run: TaskRun, nodes: Node[]): Promise<boolean> {
  const { lease, progress } = run;
  lease.state = 'suspending';
  lease.stopwatch.stop();
  try {
    await progress.trackStep('suspend', labelsOf(nodes), (done) =>
      allOrCancel(nodes.map((node) => () => suspendOne(run, node).then(() => done(node.label)))),
    );
  } catch (error) {
    if (isCancellation(error)) throw error;
    progress.setDetail('suspend', `**it could not be suspended**, and runs on: ${taskErrorOf(error).message}`);
    await resumeAll(run, nodes);
    // Soon enough for whoever needs the room, and not at once: what refused it is likely to do so again.
    await sleep(timing(run.pace).refusedBackoff.initialMs);
    await notifyWaiters(await run.ledger.recordLeaseResumed(run.task.id));
    return false;
  }
  lease.state = 'suspended';
  progress.setDetail('step', '**suspended** for a promise; it goes on as soon as there is room again');
  progress.setAttributes({ state: 'suspended' });
  return true;
}

async function suspendOne(run: TaskRun, node: Node): Promise<void> {
  const { id } = node.vm;
  updateLocation(run, node, await waitUntilSettled(run, node, await run.ledger.loadVmLocation(id), true));
  const { vm } = await run.ledger.beginSuspension(id);
  relocate(run, node, vm);
  await node.host.suspendVm(vm);
  await notifyWaiters(await run.ledger.commitSuspension(id));
}

/** Back where its memory is, on all nodes; also those whose suspension came to nothing. */
async function resumeAll(run: TaskRun, nodes: Node[]): Promise<void> {
  const { lease, progress } = run;
  lease.state = 'resuming';
  await progress.trackStep('resume', labelsOf(nodes), (done) =>
    allOrCancel(nodes.map((node) => () => resumeOne(run, node).then(() => done(node.label)))),
  );
  lease.state = 'running';
  lease.stopwatch.start();
  progress.setAttributes({ state: run.state });
}

async function resumeOne(run: TaskRun, node: Node): Promise<void> {
  const { ledger } = run;
  const { id } = node.vm;
  const { state } = await ledger.loadVmLocation(id);
  if (state === 'running') return;
  if (state === 'suspending') {
    await node.host.restoreVm({ vm: node.vm, diskHostAddress: null });
    return notifyWaiters(
      await ledger.rollBackSuspension(id, { code: 'internal', message: 'another VM of its task could not be suspended' }, false),
    );
  }
  const { vm, diskHostAddress: disksAt } = await ledger.beginRestoration(id);
  relocate(run, node, vm);
  await node.host.restoreVm({ vm, diskHostAddress: disksAt });
  await ledger.commitRestoration(id);
}
