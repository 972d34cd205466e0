import { condition } from '@temporalio/workflow';
import type { Notification, TaskOutcome } from '../../contracts/ledger.ts';
import type { VmId } from '../../model/ids.ts';
import type { TerminalTaskState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import { isoNow } from '../durable/progress.ts';
import { persistForever, unwindForever } from '../durable/retry-forever.ts';
import { timing } from '../durable/timeouts.ts';
import { updateLocation, waitUntilNodeSettled } from './node-location.ts';
import type { TaskNode, TaskRun, Verdict } from './task-run.ts';

/** Removes the VMs, frees their resources and writes the task's end, once, for every verdict. */
export async function finishRun(run: TaskRun, nodes: TaskNode[], verdict: Verdict): Promise<TerminalTaskState> {
  const { progress, task } = run;
  const open = new Set(nodes);
  const removals = nodes.length === 0 ? [] : await removeAll(run, nodes, open);
  const stuck = new Set([...open].map(({ vm }) => vm.id));
  const free = task.vmIds.filter((id) => !stuck.has(id));
  const { state, notifications } = await persistForever(run, 'the end of the task', () =>
    writeEnd(run, outcomeOf(run, nodes, verdict), free),
  );
  progress.setAttributes({ state: stuck.size > 0 ? 'stuck' : state });
  await notifyWaiters(notifications);
  if (stuck.size > 0) {
    // The task has ended for its owner; the VM keeps its resources until it is certain that nothing of it is left.
    await Promise.all(removals);
    await notifyWaiters(await persistForever(run, 'the release of the VMs', (ledger) => ledger.releaseVms([...stuck])));
    progress.setAttributes({ state });
  }
  return state;
}

/** Where the ledger can't hold what the task reports of itself, the task ends without that: no report keeps it open. */
async function writeEnd(
  { ledger, task }: TaskRun,
  outcome: TaskOutcome,
  free: VmId[],
): Promise<{ state: TerminalTaskState; notifications: Notification[] }> {
  try {
    return { state: outcome.state, notifications: await ledger.finishTask(task.id, outcome, free) };
  } catch (refusal) {
    if (codeOf(refusal) !== 'ledger-refused') throw refusal;
    const bare = withoutReport(outcome, taskErrorOf(refusal));
    return { state: bare.state, notifications: await ledger.finishTask(task.id, bare, free) };
  }
}

function withoutReport({ state, vms }: TaskOutcome, refusal: TaskError): TaskOutcome {
  const verdict = state === 'cancelled' ? { state, error: null } : { state: 'failed' as const, error: refusal };
  const unknownTimes = vms.map(({ id }) => ({ id, startedAt: null, endedAt: null }));
  return { ...verdict, exitCode: null, outputs: [], bytesIn: 0, bytesOut: 0, vms: unknownTimes, timeline: [] };
}

/** Starts the removals, and waits for them with a timeout. A node that is still in `open` then is stuck; its removal goes on. */
export async function removeAll(run: TaskRun, nodes: TaskNode[], open: Set<TaskNode>): Promise<Promise<void>[]> {
  // From here on no migration of it begins.
  const setRemoving = ({ vm }: TaskNode) => persistForever(run, 'the removal', (ledger) => ledger.setVmState(vm.id, 'removing'));
  const locations = await Promise.all(nodes.map(async (node) => (node.removing ? null : setRemoving(node))));
  const labels = nodes.map((node) => node.label);
  return run.progress.trackStep('destroy', labels, async (done) => {
    const removals = nodes.map(async (node, index) => {
      const location = locations[index];
      // A migration that is under way ends first, and the VM is removed from where it is then.
      if (location != null) updateLocation(node, await waitUntilNodeSettled(node, true, location));
      await removeNode(node);
      open.delete(node);
      done(node.label);
    });
    await condition(() => [...open].every((node) => node.stuck), timing(run.pace).removalTimeoutMs);
    for (const node of open) if (!node.stuck) await markStuck(node, removalPending(node));
    return removals;
  });
}

const removalPending = ({ vm }: TaskNode): TaskError => ({
  code: 'host-unavailable',
  message: `${vm.id} could not be removed from ${vm.host} yet. It is retried without limit: bring the host back, or see the pending step of its task's workflow`,
});

/** Retries the removal of one VM until it succeeds; no other component removes it. */
function removeNode(node: TaskNode): Promise<void> {
  return unwindForever(node.saga, node.run.retry, async (error) => {
    const { code, message } = taskErrorOf(error);
    const help = `Put it right on ${node.vm.host}, then signal wakeUp to this workflow`;
    await markStuck(node, { code, message: `${message}. ${help}` });
  });
}

async function markStuck(node: TaskNode, why: TaskError): Promise<void> {
  const { run, vm, index } = node;
  node.stuck = true;
  run.progress.setDetail(`stuck ${index}`, `**${vm.id} is stuck** on ${vm.host} (${why.code}): ${why.message}`);
  await persistForever(run, 'the stuck VM', (ledger) => ledger.setVmState(vm.id, 'stuck', why));
}

function outcomeOf(run: TaskRun, nodes: TaskNode[], { state, error }: Verdict): TaskOutcome {
  const { exitCode, outputs, storedNodes, attempts, skipped, bytesIn, bytesOut, progress } = run;
  // The owner does not pay for a stuck VM any more: its usage ends now.
  const endOf = (node: TaskNode) => (node.startedAt === null ? null : (node.endedAt ?? isoNow()));
  const vms = nodes.map((node) => ({ id: node.vm.id, startedAt: node.startedAt, endedAt: endOf(node) }));
  const reportedAt = isoNow();
  return {
    state,
    exitCode,
    error,
    outputs,
    storedNodes,
    attempts,
    skipped,
    bytesIn,
    bytesOut,
    vms,
    timeline: progress.timeline,
    reportedAt,
  };
}
