import {
  CancellationScope,
  ContinueAsNew,
  condition,
  continueAsNew,
  defineSignal,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { LedgerActivities, TaskOutcome } from '../../contracts/ledger.ts';
import type { Placement } from '../../contracts/ledger-placement.ts';
import type { TaskId } from '../../model/ids.ts';
import { isTerminal, type TaskState, type TerminalTaskState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { rethrowUnlessCancelled, withTimeout } from '../durable/cancellation-scopes.ts';
import { codeOf, failure, neverStarted, taskErrorOf } from '../durable/failure.ts';
import { notify, notifyPlanner, notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';
import { timing } from '../durable/timeouts.ts';
import { ImagePrefetcher } from '../image/image-prefetcher.ts';
import { newLeaseRun } from './lease-run.ts';
import { updateLocation, waitUntilSettled } from './node-location.ts';
import {
  boot,
  type Node,
  nodeOf,
  removeVm,
  runCommands,
  stageIn,
  stageOut,
  type TaskRun,
  type Verdict,
  verdictOf,
} from './task-steps.ts';

const placedSignal = defineSignal(signalName.placed);
const leaseOrderChangedSignal = defineSignal(signalName.leaseOrderChanged);
const locationChangedSignal = defineSignal(signalName.locationChanged);

/**
 * One task, from the queue to its end.
 *
 *   step       on each node                          undone by
 *   (reserve)  VMs placed by the ledger              finishTask, which frees them
 *   stageIn    data disk, image, overlay, network    removeVm
 *   create     the domain is started                 (with stageIn: removeVm ends what there is, from every state)
 *   boot       agent, identity, /home/task           (with stageIn)
 *   run        the command, once                     (ends with its domain)
 *   stageOut   outputs into the repository           (files that an ended task doesn't name are swept)
 *   destroy    the undos above, last one first: a task's end and its undoing are one path
 *
 * @param pace scales every wait of workflows/durable/timeouts.ts; 1 at a site.
 */
export async function runTask(id: TaskId, pace = 1): Promise<TerminalTaskState> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const retry = new RetryForever(pace);
  const task = await retry.run(
    () => ledger.loadTask(id),
    (error) => {
      if (codeOf(error) === 'not-found') throw error;
    },
  );
  if (isTerminal(task.state)) return task.state;
  // The request may have come before there was a workflow to cancel.
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

  const nodes: Node[] = [];
  const verdict = await runToVerdict(run, nodes).catch((error): Verdict => {
    if (error instanceof ContinueAsNew) throw error;
    return root.consideredCancelled ? { state: 'cancelled', error: null } : { state: 'failed', error: taskErrorOf(error) };
  });
  return CancellationScope.nonCancellable(() => finishRun(run, nodes, verdict));
}

/** Queue and work, as often as it takes. `nodes` are those of the placement that holds. */
async function runToVerdict(run: TaskRun, nodes: Node[]): Promise<Verdict> {
  if (activeStates.has(run.state)) await failInterrupted(run, nodes);
  for (;;) {
    nodes.push(...(await waitForPlacement(run)));
    const verdict = await execute(run, nodes);
    if (verdict !== 'elsewhere') return verdict;
    await requeue(run, nodes);
    nodes.length = 0;
    run.boots.length = 0;
  }
}

/** States that no workflow finds its task in when it begins, unless there was one before it that is no more. */
const activeStates: ReadonlySet<TaskState> = new Set(['starting', 'running', 'stagingOut']);

/**
 * An operator has terminated the task's workflow, or Temporal has lost it; how its command fared is not known any more.
 * So the task ends, and its VMs, which the ledger knows, are removed as ever.
 */
async function failInterrupted(run: TaskRun, nodes: Node[]): Promise<never> {
  nodes.push(...(await waitForPlacement(run)));
  for (const node of nodes)
    await node.saga.step(
      'stageIn',
      async () => undefined,
      () => removeVm(run, node),
    );
  throw failure('interrupted', `Its workflow was ended from outside while it was ${run.state}; submit the task again`);
}

/** Waits until the ledger has placed the task. A signal says when to ask; the poll is for one that was lost. */
async function waitForPlacement(run: TaskRun): Promise<Node[]> {
  let woken = false;
  setHandler(placedSignal, () => {
    woken = true;
  });
  const { owner } = run.task;
  const prefetcher = new ImagePrefetcher(run.task.id, run.pace);
  for (;;) {
    woken = false;
    const answer = await run.ledger.reserveTask(run.task.id);
    if (answer.placed) {
      run.lease = { ...newLeaseRun(), term: answer.term };
      const nodes = answer.vms.map((vm, index) => nodeOf(run, vm, index));
      run.progress.setAttributes({ owner, hosts: [...new Set(answer.vms.map((vm) => vm.host))], vms: run.task.vmIds });
      return nodes;
    }
    run.progress.setAttributes({ owner, state: 'queued' });
    run.progress.setDetail('step', queueLine(answer));
    if (answer.planActive) await notifyPlanner();
    await prefetcher.request(answer.prefetch, answer.term);
    await condition(() => woken, timing(run.pace).queuePollMs);
    // The ledger holds all that this run knows, a signal that came meanwhile included.
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof runTask>(run.task.id, run.pace);
  }
}

function queueLine({ position, refusal }: Extract<Placement, { placed: false }>): string {
  const reasons = Object.entries(refusal.failed).map(([filter, hosts]) => `${hosts} failed ${filter}`);
  return `**queued** at position ${position}; of ${refusal.hosts} hosts ${reasons.join(', ') || 'none was asked'}`;
}

/**
 * The steps on the hosts. The lease's time is the command's: what comes before and after is none of it, and has a bound
 * of its own.
 */
async function execute(run: TaskRun, nodes: Node[]): Promise<Verdict | 'elsewhere'> {
  const ready = await withOverheadLimit(run, async () => {
    if ((await stageInUnlessPreempted(run, nodes)) === 'elsewhere') return false;
    await boot(run, nodes);
    return true;
  });
  if (!ready) return 'elsewhere';
  const result = await runCommands(run, nodes);
  const unmatched = await withOverheadLimit(run, () => stageOut(run, nodes));
  return verdictOf(run, result, unmatched);
}

/** A step beside the lease's own time, which takes at most as long as the lease does, and a little. */
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

/** Until the domain is asked for there is nothing to suspend: who is in a promise's way then goes back to the queue. */
async function stageInUnlessPreempted(run: TaskRun, nodes: Node[]): Promise<'here' | 'elsewhere'> {
  const scope = new CancellationScope();
  const watching = new CancellationScope();
  let preempted = false;
  const watched = watching
    .run(() => waitForPreemption(run))
    .then(() => {
      preempted = true;
      scope.cancel();
    }, rethrowUnlessCancelled);
  try {
    await scope.run(() => stageIn(run, nodes));
    return preempted ? 'elsewhere' : 'here';
  } catch (error) {
    if (preempted || neverStarted(error)) return 'elsewhere';
    throw error;
  } finally {
    watching.cancel();
    await watched;
  }
}

/** Returns when the plan wants the work suspended. */
async function waitForPreemption(run: TaskRun): Promise<void> {
  for (let ordersSeen = 0; ; ordersSeen = run.lease.ordersReceived) {
    await condition(() => run.lease.ordersReceived > ordersSeen);
    if ((await run.ledger.loadLeaseOrder(run.task.id)) === 'suspend') return;
  }
}

/**
 * A host fell silent, or was promised to others, before any domain was asked for: nothing runs there, and the task is
 * placed anew, with a higher generation. What was staged is left where it is; the hosts' reconciliation removes it as soon as they answer.
 */
async function requeue(run: TaskRun, nodes: Node[]): Promise<void> {
  run.progress.reset();
  await notifyWaiters(await run.ledger.requeueTask(run.task.id));
  run.state = 'queued';
  for (const { vm } of nodes) await notify(workflowId.reconcile(vm.host), signalName.wakeUp);
}

/** Removes what there is, frees what was reserved and tells the task's end, once, whatever the verdict. */
async function finishRun(run: TaskRun, nodes: Node[], verdict: Verdict): Promise<TerminalTaskState> {
  const { progress, task } = run;
  const open = new Set(nodes);
  const removals = nodes.length === 0 ? [] : await removeAll(run, nodes, open);
  const kept = new Set([...open].map(({ vm }) => vm.id));
  const free = task.vmIds.filter((id) => !kept.has(id));
  const finish = (ledger: LedgerActivities) => ledger.finishTask(task.id, outcomeOf(run, nodes, verdict), free);
  const placed = await persistForever(run, 'the end of the task', finish);
  progress.setAttributes({ state: kept.size > 0 ? 'stuck' : verdict.state });
  await notifyWaiters(placed);
  if (kept.size > 0) {
    // The owner has an answer; the VM keeps its resources until it is certain that nothing of it is left.
    await Promise.all(removals);
    await notifyWaiters(await persistForever(run, 'the release of the VMs', (ledger) => ledger.releaseVms([...kept])));
    progress.setAttributes({ state: verdict.state });
  }
  return verdict.state;
}

/** Starts the removals and gives them time. Whoever is still in `open` then is marked stuck, and goes on being removed. */
async function removeAll(run: TaskRun, nodes: Node[], open: Set<Node>): Promise<Promise<void>[]> {
  const { progress } = run;
  // From here on no migration of it begins.
  const removing = ({ vm }: Node) => persistForever(run, 'the removal', (ledger) => ledger.setVmState(vm.id, 'removing'));
  const places = await Promise.all(nodes.map(async (node) => (node.removing ? null : removing(node))));
  const labels = nodes.map((node) => node.label);
  return progress.trackStep('destroy', labels, async (done) => {
    const removals = nodes.map(async (node, index) => {
      const place = places[index];
      // One that is under way ends first, and the VM is removed from where it is then.
      if (place != null) updateLocation(run, node, await waitUntilSettled(run, node, place, true));
      await removeNode(run, node);
      open.delete(node);
      done(node.label);
    });
    await condition(() => [...open].every((node) => node.stuck), timing(run.pace).removalTimeoutMs);
    for (const node of open) if (!node.stuck) await markStuck(run, node, removalPending(node));
    return removals;
  });
}

const removalPending = ({ vm }: Node): TaskError => ({
  code: 'host-unavailable',
  message: `${vm.id} could not be removed from ${vm.host} yet. It is tried again for ever: bring the host back, or see the pending step of its task's workflow`,
});

/** Removes one VM, for ever: it is nobody else's task to. */
async function removeNode(run: TaskRun, node: Node): Promise<void> {
  const unwind = async (): Promise<void> => {
    const stuck = await node.saga.unwind();
    if (stuck !== null) throw stuck.error;
  };
  await run.retry.run(unwind, async (error) => {
    const { code, message } = taskErrorOf(error);
    const help = `Put it right on ${node.vm.host}, then signal wakeUp to this workflow`;
    await markStuck(run, node, { code, message: `${message}. ${help}` });
  });
}

async function markStuck(run: TaskRun, node: Node, why: TaskError): Promise<void> {
  node.stuck = true;
  run.progress.setDetail(`stuck ${node.index}`, `**${node.vm.id} is stuck** on ${node.vm.host} (${why.code}): ${why.message}`);
  await persistForever(run, 'the stuck VM', (ledger) => ledger.setVmState(node.vm.id, 'stuck', why));
}

/** An end has to be written down, whatever the ledger thinks of it: a refusal is a mistake of ours, and waits for us. */
async function persistForever<T>(run: TaskRun, what: string, act: (ledger: LedgerActivities) => Promise<T>): Promise<T> {
  const refused = (error: unknown) =>
    run.progress.setDetail('refused', `**the ledger refuses ${what}**: ${taskErrorOf(error).message}`);
  const result = await run.retry.run(() => act(run.ledger), refused);
  run.progress.setDetail('refused', null);
  return result;
}

function outcomeOf(run: TaskRun, nodes: Node[], { state, error }: Verdict): TaskOutcome {
  const { exitCode, outputs, bytesIn, bytesOut, progress } = run;
  // A VM that is stuck is no longer its owner's to pay for.
  const endOf = (node: Node) => (node.startedAt === null ? null : (node.endedAt ?? isoNow()));
  const vms = nodes.map((node) => ({ id: node.vm.id, startedAt: node.startedAt, endedAt: endOf(node) }));
  return { state, exitCode, error, outputs, bytesIn, bytesOut, vms, timeline: progress.timeline };
}
