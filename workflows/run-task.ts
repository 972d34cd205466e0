import {
  CancellationScope,
  ContinueAsNew,
  condition,
  continueAsNew,
  defineSignal,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import type { LedgerActivities, Placement, TaskOutcome } from '../activities/ledger/contract.ts';
import type { TaskId } from '../model/ids.ts';
import { isTerminal, type TaskState, type TerminalTaskState } from '../model/states.ts';
import type { TaskError } from '../model/task.ts';
import { signalName, workflowId } from '../model/temporal.ts';
import { codeOf, failure, neverStarted, taskErrorOf } from './failure.ts';
import { Insistence } from './insistence.ts';
import { newLeaseRun } from './lease-life.ts';
import { settleAt, stillPlace } from './moved-node.ts';
import { onLedger } from './on-host.ts';
import { Prestaging } from './prestaging.ts';
import { now, Progress } from './progress.ts';
import { onlyCancellation, within } from './scopes.ts';
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
} from './task-nodes.ts';
import { tell, tellPlaced, tellPlanner } from './tell.ts';
import { waits } from './timeouts.ts';

const placedSignal = defineSignal(signalName.placed);
const plannedSignal = defineSignal(signalName.planned);
const movedSignal = defineSignal(signalName.moved);

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
 * @param pace scales every wait of workflows/timeouts.ts; 1 at a site.
 */
export async function runTask(id: TaskId, pace = 1): Promise<TerminalTaskState> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const insistence = new Insistence(pace);
  const task = await insistence.on(
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
    insistence,
    pace,
    state: task.state,
    exitCode: null,
    outputs: [],
    bytesIn: 0,
    bytesOut: 0,
    moves: 0,
    boots: [],
    lease: newLeaseRun(),
  };
  setHandler(plannedSignal, () => {
    run.lease.replans += 1;
  });
  setHandler(movedSignal, () => {
    run.moves += 1;
  });

  const nodes: Node[] = [];
  const verdict = await conclude(run, nodes).catch((error): Verdict => {
    if (error instanceof ContinueAsNew) throw error;
    return root.consideredCancelled ? { state: 'cancelled', error: null } : { state: 'failed', error: taskErrorOf(error) };
  });
  return CancellationScope.nonCancellable(() => end(run, nodes, verdict));
}

/** Queue and work, as often as it takes. `nodes` are those of the placement that holds. */
async function conclude(run: TaskRun, nodes: Node[]): Promise<Verdict> {
  if (begun.has(run.state)) await foundInterrupted(run, nodes);
  for (;;) {
    nodes.push(...(await placed(run)));
    const verdict = await work(run, nodes);
    if (verdict !== 'elsewhere') return verdict;
    await requeue(run, nodes);
    nodes.length = 0;
    run.boots.length = 0;
  }
}

/** States that no workflow finds its task in when it begins, unless there was one before it that is no more. */
const begun: ReadonlySet<TaskState> = new Set(['starting', 'running', 'stagingOut']);

/**
 * An operator has terminated the task's workflow, or Temporal has lost it; how its command fared is not known any more.
 * So the task ends, and its VMs, which the ledger knows, are removed as ever.
 */
async function foundInterrupted(run: TaskRun, nodes: Node[]): Promise<never> {
  nodes.push(...(await placed(run)));
  for (const node of nodes)
    await node.saga.step(
      'VM',
      async () => undefined,
      () => removeVm(run, node),
    );
  throw failure('interrupted', `Its workflow was ended from outside while it was ${run.state}; submit the task again`);
}

/** Waits until the ledger has placed the task. A signal says when to ask; the poll is for one that was lost. */
async function placed(run: TaskRun): Promise<Node[]> {
  let asked = false;
  setHandler(placedSignal, () => {
    asked = true;
  });
  const { owner } = run.task;
  const prestaging = new Prestaging(run.task.id, run.pace);
  for (;;) {
    asked = false;
    const answer = await run.ledger.reserveTask(run.task.id);
    if (answer.placed) {
      run.lease = { ...newLeaseRun(), term: answer.term };
      const nodes = answer.vms.map((vm, index) => nodeOf(run, vm, index));
      run.progress.mark({ owner, hosts: [...new Set(answer.vms.map((vm) => vm.host))], vms: run.task.vmIds });
      return nodes;
    }
    run.progress.mark({ owner, state: 'queued' });
    run.progress.say('step', queueLine(answer));
    if (answer.planned) await tellPlanner();
    await prestaging.want(answer.prestage, answer.term);
    await condition(() => asked, waits(run.pace).queuePoll);
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
async function work(run: TaskRun, nodes: Node[]): Promise<Verdict | 'elsewhere'> {
  const ready = await beside(run, async () => {
    if ((await staged(run, nodes)) === 'elsewhere') return false;
    await boot(run, nodes);
    return true;
  });
  if (!ready) return 'elsewhere';
  const result = await runCommands(run, nodes);
  const unmatched = await beside(run, () => stageOut(run, nodes));
  return verdictOf(run, result, unmatched);
}

/** A step beside the lease's own time, which takes at most as long as the lease does, and a little. */
function beside<T>(run: TaskRun, act: () => Promise<T>): Promise<T> {
  const limitMs = run.task.spec.lease.durationS * 1000 + waits(run.pace).overheadPatience;
  run.progress.due(new Date(Date.now() + limitMs).toISOString());
  const expired = () =>
    failure(
      'lease-expired',
      `The task was still ${run.state} after ${limitMs / 1000} s, longer than its lease would have lasted`,
    );
  return within(limitMs, expired, act);
}

/** Until the domain is asked for there is nothing to suspend: who is in a promise's way then goes back to the queue. */
async function staged(run: TaskRun, nodes: Node[]): Promise<'here' | 'elsewhere'> {
  const scope = new CancellationScope();
  const watching = new CancellationScope();
  let displaced = false;
  const watched = watching
    .run(() => displacement(run))
    .then(() => {
      displaced = true;
      scope.cancel();
    }, onlyCancellation);
  try {
    await scope.run(() => stageIn(run, nodes));
    return displaced ? 'elsewhere' : 'here';
  } catch (error) {
    if (displaced || neverStarted(error)) return 'elsewhere';
    throw error;
  } finally {
    watching.cancel();
    await watched;
  }
}

/** Returns when the plan wants the work suspended. */
async function displacement(run: TaskRun): Promise<void> {
  for (let heard = 0; ; heard = run.lease.replans) {
    await condition(() => run.lease.replans > heard);
    if ((await run.ledger.leaseOrder(run.task.id)) === 'suspend') return;
  }
}

/**
 * A host fell silent, or was promised to others, before any domain was asked for: nothing runs there, and the task is
 * placed anew, with a higher generation. What was staged is left where it is; the hosts' reconciliation removes it as soon as they answer.
 */
async function requeue(run: TaskRun, nodes: Node[]): Promise<void> {
  run.progress.forget();
  await tellPlaced(await run.ledger.requeueTask(run.task.id));
  run.state = 'queued';
  for (const { vm } of nodes) await tell(workflowId.reconcile(vm.host), signalName.lookNow);
}

/** Removes what there is, frees what was reserved and tells the task's end, once, whatever the verdict. */
async function end(run: TaskRun, nodes: Node[], verdict: Verdict): Promise<TerminalTaskState> {
  const { progress, task } = run;
  const open = new Set(nodes);
  const removals = nodes.length === 0 ? [] : await destroy(run, nodes, open);
  const kept = new Set([...open].map(({ vm }) => vm.id));
  const free = task.vmIds.filter((id) => !kept.has(id));
  const finish = (ledger: LedgerActivities) => ledger.finishTask(task.id, outcomeOf(run, nodes, verdict), free);
  const placed = await recorded(run, 'the end of the task', finish);
  progress.mark({ state: kept.size > 0 ? 'stuck' : verdict.state });
  await tellPlaced(placed);
  if (kept.size > 0) {
    // The owner has an answer; the VM keeps its resources until it is certain that nothing of it is left.
    await Promise.all(removals);
    await tellPlaced(await recorded(run, 'the release of the VMs', (ledger) => ledger.releaseVms([...kept])));
    progress.mark({ state: verdict.state });
  }
  return verdict.state;
}

/** Starts the removals and gives them time. Whoever is still in `open` then is marked stuck, and goes on being removed. */
async function destroy(run: TaskRun, nodes: Node[], open: Set<Node>): Promise<Promise<void>[]> {
  const { progress } = run;
  // From here on no migration of it begins.
  const removing = ({ vm }: Node) => recorded(run, 'the removal', (ledger) => ledger.setVmState(vm.id, 'removing'));
  const places = await Promise.all(nodes.map(async (node) => (node.leaving ? null : removing(node))));
  const labels = nodes.map((node) => node.label);
  return progress.during('destroy', labels, async (done) => {
    const removals = nodes.map(async (node, index) => {
      const place = places[index];
      // One that is under way ends first, and the VM is removed from where it is then.
      if (place != null) settleAt(run, node, await stillPlace(run, node, place, true));
      await removed(run, node);
      open.delete(node);
      done(node.label);
    });
    await condition(() => [...open].every((node) => node.stuck), waits(run.pace).removalPatience);
    for (const node of open) if (!node.stuck) await markStuck(run, node, stillTrying(node));
    return removals;
  });
}

const stillTrying = ({ vm }: Node): TaskError => ({
  code: 'host-unavailable',
  message: `${vm.id} could not be removed from ${vm.host} yet. It is tried again for ever: bring the host back, or see the pending step of its task's workflow`,
});

/** Removes one VM, for ever: it is nobody else's task to. */
async function removed(run: TaskRun, node: Node): Promise<void> {
  const unwind = async (): Promise<void> => {
    const stuck = await node.saga.unwind();
    if (stuck !== null) throw stuck.error;
  };
  await run.insistence.on(unwind, async (error) => {
    const { code, message } = taskErrorOf(error);
    const help = `Put it right on ${node.vm.host}, then signal lookNow to this workflow`;
    await markStuck(run, node, { code, message: `${message}. ${help}` });
  });
}

async function markStuck(run: TaskRun, node: Node, why: TaskError): Promise<void> {
  node.stuck = true;
  run.progress.say(`stuck ${node.index}`, `**${node.vm.id} is stuck** on ${node.vm.host} (${why.code}): ${why.message}`);
  await recorded(run, 'the stuck VM', (ledger) => ledger.setVmState(node.vm.id, 'stuck', why));
}

/** An end has to be written down, whatever the ledger thinks of it: a refusal is a mistake of ours, and waits for us. */
async function recorded<T>(run: TaskRun, what: string, act: (ledger: LedgerActivities) => Promise<T>): Promise<T> {
  const refused = (error: unknown) =>
    run.progress.say('refused', `**the ledger refuses ${what}**: ${taskErrorOf(error).message}`);
  const result = await run.insistence.on(() => act(run.ledger), refused);
  run.progress.say('refused', null);
  return result;
}

function outcomeOf(run: TaskRun, nodes: Node[], { state, error }: Verdict): TaskOutcome {
  const { exitCode, outputs, bytesIn, bytesOut, progress } = run;
  // A VM that is stuck is no longer its owner's to pay for.
  const endOf = (node: Node) => (node.startedAt === null ? null : (node.endedAt ?? now()));
  const vms = nodes.map((node) => ({ id: node.vm.id, startedAt: node.startedAt, endedAt: endOf(node) }));
  return { state, exitCode, error, outputs, bytesIn, bytesOut, vms, timeline: progress.timeline };
}
