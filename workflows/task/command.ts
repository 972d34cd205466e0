import { condition } from '@temporalio/workflow';
import type { RunResult } from '../../contracts/host.ts';
import type { TaskStepArgs } from '../../contracts/ledger.ts';
import { Backoff } from '../durable/backoff.ts';
import { allOrCancel } from '../durable/cancellation-scopes.ts';
import { codeOf, failure } from '../durable/failure.ts';
import { withFreshUrls } from '../durable/fresh-urls.ts';
import { withRunningTimeout } from '../durable/stopwatch.ts';
import { timing } from '../durable/timeouts.ts';
import { runUnderLease, startLease } from './lease-run.ts';
import { relocate, updateLocation, waitUntilNodeSettled } from './node-location.ts';
import { enterState, type NodeStep, runOnAllNodes, takeStepArgs } from './node-step.ts';
import type { TaskNode, TaskRun } from './task-run.ts';

export const commandStep: NodeStep = {
  name: 'run',
  does: 'the command, once',
  act: runOnNode,
  undo: null,
  undoneBy: 'nothing: the command ends with its domain',
};

/** Thrown to cancel the step on the other nodes: this one's command has ended without success. */
class CommandFailed extends Error {}

const hasSucceeded = (result: RunResult): boolean => result.exitCode === 0 && !result.timedOut;

/**
 * Runs the command on every node. The guest enforces timeoutS; the saga's own timer is for a host that can't observe the
 * guest. @returns the result that decides: of the node that failed first, else of the first node
 */
export async function runCommands(run: TaskRun, nodes: TaskNode[]): Promise<RunResult> {
  const leaseMs = await startLease(run);
  await enterState(run, nodes, 'running', 'running');
  const { timeoutS, lease } = run.task.spec;
  const { stopwatch } = run.lease;
  const expired = () => failure('lease-expired', `The lease of ${lease.durationS} s ended while the command ran`);
  const late = () => failure('task-timeout', `The command did not end within ${timeoutS} s, and its host reports no reason`);
  const limitMs = timeoutS * 1000 + timing(run.pace).runGraceMs;
  const commands = () => runUnderLease(run, nodes, () => runOnNodes(run, nodes));
  const results = await withRunningTimeout(stopwatch, leaseMs, expired, () =>
    withRunningTimeout(stopwatch, limitMs, late, commands),
  );
  stopwatch.stop();
  const deciding = results.find((result) => !hasSucceeded(result)) ?? results[0];
  if (deciding === undefined) throw new Error('BUG: a task without nodes');
  run.exitCode = deciding.exitCode;
  return deciding;
}

async function runOnNodes(run: TaskRun, nodes: TaskNode[]): Promise<RunResult[]> {
  try {
    await runOnAllNodes(run, commandStep, nodes);
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    // Only the commands of the others end: their guests are needed for stageOut.
    const others = nodes.filter(({ result }) => result === null);
    await allOrCancel(others.map((node) => () => stopCommand(node)));
  }
  return nodes.flatMap(({ result }) => result ?? []);
}

async function runOnNode(node: TaskNode): Promise<void> {
  const result = await followCommand(node);
  node.result = result;
  if (!hasSucceeded(result)) throw new CommandFailed();
}

/** Those that were returned with the state may be older than a suspension. */
async function currentStepArgs(node: TaskNode): Promise<TaskStepArgs> {
  const args = await takeStepArgs(node);
  return args.run.vm.generation < node.vm.generation ? takeStepArgs(node) : args;
}

/** Follows the command of one node at the VM's current host: when the VM moves, its command moves with it. */
async function followCommand(node: TaskNode): Promise<RunResult> {
  const { run } = node;
  const { maxMs } = timing(run.pace).admissionPoll;
  const suspendedPoll = new Backoff({ initialMs: maxMs, maxMs });
  for (;;) {
    // The plan may have ordered the suspension before the command began.
    await condition(() => run.lease.state === 'running');
    const changesSeen = run.locationChanges;
    let attempted = 0;
    try {
      return await withFreshUrls(
        () => currentStepArgs(node),
        (args) => {
          relocate(node, args.run.vm);
          attempted = args.run.vm.generation;
          return node.host.runCommand(args.run);
        },
      );
    } catch (error) {
      const code = codeOf(error);
      if (code !== 'vm-moved' && code !== 'vm-suspended' && code !== 'stale-generation') throw error;
      // Suspended by the plan, which also resumes it. Otherwise a migration has moved it, live or cold.
      if (run.lease.state !== 'running') continue;
    }
    const location = await waitUntilNodeSettled(node, false);
    if (run.lease.state !== 'running') continue;
    if (location.state === 'suspended' || location.state === 'restoring') {
      // By its owner, who also restores it.
      await condition(() => run.locationChanges > changesSeen || run.lease.state !== 'running', suspendedPoll.next());
      continue;
    }
    if ((location.state !== 'running' && location.state !== 'paused') || location.generation === attempted)
      throw failure(
        'vm-lost',
        `${node.vm.id} left ${node.vm.host} and is ${location.state}: its command is lost; submit the task again`,
      );
  }
}

export async function stopCommand(node: TaskNode): Promise<void> {
  updateLocation(node, await waitUntilNodeSettled(node, true));
  await node.host.stopCommand(node.vm.id, node.vm.generation);
}
