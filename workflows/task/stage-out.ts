import type { StagedOut } from '../../contracts/host.ts';
import type { TaskStepArgs } from '../../contracts/ledger.ts';
import { noneSkipped, skippedOfTask } from '../../model/outputs/skipped.ts';
import { withFreshUrls } from '../durable/fresh-urls.ts';
import { homeOf, relocate, waitUntilNodeSettled } from './node-location.ts';
import { enterState, type NodeStep, runOnAllNodes, takeStepArgs } from './node-step.ts';
import type { TaskNode, TaskRun } from './task-run.ts';

export const stageOutStep: NodeStep = {
  name: 'stageOut',
  does: 'stores the outputs in the repository, also those of a command that failed',
  act: stageOutNode,
  undo: null,
  undoneBy: 'the API, which removes files that an ended task does not list',
};

/** @returns the patterns that matched nothing on any node. From here on the VMs are in state `removing`. */
export async function stageOut(run: TaskRun, nodes: TaskNode[]): Promise<string[]> {
  const patterns = run.task.spec.outputs;
  await enterState(run, nodes, 'stagingOut', 'removing');
  for (const node of nodes) node.removing = node.stepArgs?.migrationWorkflowId === null;
  if (patterns.length === 0) return [];
  await runOnAllNodes(run, stageOutStep, nodes);
  const parts = recordStagedOut(run, nodes);
  return patterns.filter((pattern) => parts.every(({ unmatched }) => unmatched.includes(pattern)));
}

/** What the nodes have stored so far is the task's. */
export function recordStagedOut(run: TaskRun, nodes: readonly TaskNode[]): StagedOut[] {
  const parts = nodes.flatMap(({ stagedOut }) => stagedOut ?? []);
  run.outputs = parts.flatMap(({ outputs }) => outputs);
  run.storedNodes = nodes.flatMap(({ index, stagedOut }) => (stagedOut?.stored === undefined ? [] : [index]));
  run.attempts = parts.flatMap(({ attempt }) => attempt ?? []);
  run.skipped = skippedOfTask(nodes.map(({ stagedOut }) => stagedOut?.skipped ?? noneSkipped()));
  run.bytesOut = parts.reduce((sum, { bytes }) => sum + bytes, 0);
  return parts;
}

async function stageOutNode(node: TaskNode): Promise<void> {
  const part = await withFreshUrls(
    () => settledStepArgs(node),
    (args) => collectOutputs(node, args),
  );
  // By this workflow's clock, like its start: a host's may be another one.
  node.endedAt = part.endedAt === null ? null : new Date(Date.now() - (part.endedAgoMs ?? 0)).toISOString();
  node.stagedOut = part;
}

/** Arguments for a VM that does not move: no migration begins any more, and one that is under way is cancelled. */
async function settledStepArgs(node: TaskNode): Promise<TaskStepArgs> {
  let args = await takeStepArgs(node);
  if (args.migrationWorkflowId !== null) {
    await waitUntilNodeSettled(node, true);
    args = await takeStepArgs(node);
  }
  relocate(node, args.stageOut.vm);
  return args;
}

/** The guest's writes are flushed at its host; the disk is read at its home. */
async function collectOutputs(node: TaskNode, { stageOut: order }: TaskStepArgs): Promise<StagedOut> {
  if (order.vm.home === order.vm.host) return node.host.stageOut(order);
  await node.host.flushGuestDisks(order.vm);
  return homeOf(node).stageOut({ ...order, flushedElsewhere: true });
}
