import { CancellationScope, condition, isCancellation, sleep } from '@temporalio/workflow';
import type { LeaseTerm } from '../activities/ledger/contract.ts';
import { taskErrorOf } from './failure.ts';
import { relocate, settleAt, stillPlace } from './moved-node.ts';
import { together } from './scopes.ts';
import { Stopwatch } from './stopwatch.ts';
import type { Node, TaskRun } from './task-nodes.ts';
import { tellPlaced } from './tell.ts';
import { waits } from './timeouts.ts';

/** A task's lease at work: what the plan wants of it, and how much of its time has passed. */
export interface LeaseRun {
  /** How often the plan has asked for something. */
  replans: number;
  state: 'running' | 'suspending' | 'suspended' | 'resuming';
  /** Of a promise; null: its time counts from when it runs. */
  term: LeaseTerm | null;
  readonly watch: Stopwatch;
}

export const newLeaseRun = (): LeaseRun => ({ replans: 0, state: 'running', term: null, watch: new Stopwatch() });

/**
 * A promise is kept by being early: the VMs are there, and the work begins at its time. A lease without one begins now.
 * @returns how long it may run, in ms
 */
export async function begin({ lease, progress, task }: TaskRun): Promise<number> {
  const { term, watch } = lease;
  if (term === null) {
    watch.go();
    return task.spec.lease.durationS * 1000;
  }
  const earlyMs = Date.parse(term.startAt) - Date.now();
  if (earlyMs > 0) {
    progress.say('step', `**ready**; starts at ${term.startAt}`);
    await sleep(earlyMs);
  }
  watch.go();
  return Math.max(1, Date.parse(term.endAt) - Date.now());
}

/**
 * Runs an act in VMs that the plan may suspend and resume meanwhile. What the plan asked for is finished before this
 * returns, and VMs that were suspended run again by then: so whoever follows finds guests that answer.
 */
export async function whileObeying<T>(run: TaskRun, nodes: Node[], act: () => Promise<T>): Promise<T> {
  const following = new CancellationScope();
  const working = new CancellationScope();
  let done = false;
  let failed: unknown = null;
  const followed = following
    .run(() => obey(run, nodes, () => done))
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

async function obey(run: TaskRun, nodes: Node[], done: () => boolean): Promise<void> {
  const { lease } = run;
  const isOver = () => done() && lease.state === 'running';
  // Asked for before the guests answered: it is done first.
  for (let heard = 0; ; ) {
    if (lease.replans > heard) {
      heard = lease.replans;
      await obeyOnce(run, nodes);
    } else if (isOver()) return;
    else await condition(() => lease.replans > heard || isOver());
  }
}

/** The ledger says what is wanted; a repeated question is answered by saying again what is so. */
async function obeyOnce(run: TaskRun, nodes: Node[]): Promise<void> {
  const { lease, ledger, task } = run;
  const order = await ledger.leaseOrder(task.id);
  if (order === 'run') return;
  if (order === 'suspend') {
    if (lease.state === 'running' && !(await suspend(run, nodes))) return;
    await tellPlaced(await ledger.leaseSuspended(task.id));
  } else {
    if (lease.state === 'suspended') await resume(run, nodes);
    await tellPlaced(await ledger.leaseResumed(task.id));
  }
}

const labelsOf = (nodes: readonly Node[]): string[] => nodes.map(({ label }) => label);

/** Out of memory, on all nodes or on none. */
async function suspend(run: TaskRun, nodes: Node[]): Promise<boolean> {
  const { lease, progress } = run;
  lease.state = 'suspending';
  lease.watch.stop();
  try {
    await progress.during('suspend', labelsOf(nodes), (done) =>
      together(nodes.map((node) => () => suspendOne(run, node).then(() => done(node.label)))),
    );
  } catch (error) {
    if (isCancellation(error)) throw error;
    progress.say('suspend', `**it could not be suspended**, and runs on: ${taskErrorOf(error).message}`);
    await resume(run, nodes);
    // Soon enough for whoever needs the room, and not at once: what refused it is likely to do so again.
    await sleep(waits(run.pace).stuckPause.first);
    await tellPlaced(await run.ledger.leaseResumed(run.task.id));
    return false;
  }
  lease.state = 'suspended';
  progress.say('step', '**suspended** for a promise; it goes on as soon as there is room again');
  progress.mark({ state: 'suspended' });
  return true;
}

async function suspendOne(run: TaskRun, node: Node): Promise<void> {
  const { id } = node.vm;
  settleAt(run, node, await stillPlace(run, node, await run.ledger.vmPlace(id), true));
  const { vm } = await run.ledger.beginSuspension(id);
  relocate(run, node, vm);
  await node.host.suspendVm(vm);
  await tellPlaced(await run.ledger.commitSuspension(id));
}

/** Back where its memory is, on all nodes; also those whose suspension came to nothing. */
async function resume(run: TaskRun, nodes: Node[]): Promise<void> {
  const { lease, progress } = run;
  lease.state = 'resuming';
  await progress.during('resume', labelsOf(nodes), (done) =>
    together(nodes.map((node) => () => resumeOne(run, node).then(() => done(node.label)))),
  );
  lease.state = 'running';
  lease.watch.go();
  progress.mark({ state: run.state });
}

async function resumeOne(run: TaskRun, node: Node): Promise<void> {
  const { ledger } = run;
  const { id } = node.vm;
  const { state } = await ledger.vmPlace(id);
  if (state === 'running') return;
  if (state === 'suspending') {
    await node.host.restoreVm({ vm: node.vm, disksAt: null });
    return tellPlaced(
      await ledger.rollBackPower(id, { code: 'internal', message: 'another VM of its task could not be suspended' }, false),
    );
  }
  const { vm, disksAt } = await ledger.beginRestoration(id);
  relocate(run, node, vm);
  await node.host.restoreVm({ vm, disksAt });
  await ledger.commitRestoration(id);
}
