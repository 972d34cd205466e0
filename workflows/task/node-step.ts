import type { TaskStepArgs } from '../../contracts/ledger.ts';
import type { TaskState } from '../../model/states.ts';
import { allOrCancel } from '../durable/cancellation-scopes.ts';
import { runStep, type Step } from '../durable/step.ts';
import type { TaskNode, TaskRun } from './task-run.ts';

export type NodeStep = Step<TaskNode>;

/** Runs a step on all nodes concurrently; when it fails on one, it is cancelled on the others. */
export async function runOnAllNodes(run: TaskRun, step: NodeStep, nodes: TaskNode[]): Promise<void> {
  const labels = nodes.map((node) => node.label);
  await run.progress.trackStep(step.name, labels, (done) =>
    allOrCancel(
      nodes.map((node) => async () => {
        await runStep(node.saga, step, node);
        run.progress.setDetail(`silent ${node.index}`, null);
        done(node.label);
      }),
    ),
  );
}

/** An upsert costs Temporal as much as a step: the states between these last a second, and are in the details. */
const searchedStates: ReadonlySet<TaskState> = new Set(['stagingIn', 'running']);

/**
 * Writes the task's next state. The same transaction returns the arguments of the step on each node, right before their
 * use: their URLs are short-lived, and a second round trip to the ledger would cost as much as its work.
 */
export async function enterState(
  run: TaskRun,
  nodes: TaskNode[],
  state: TaskState,
  vmState?: 'creating' | 'running' | 'removing',
): Promise<void> {
  const args = await run.ledger.advanceTask(run.task.id, state, run.progress.timeline, vmState, run.boots);
  for (const node of nodes) node.stepArgs = args[node.index];
  run.state = state;
  if (!run.task.fewUpserts || searchedStates.has(state)) run.progress.setAttributes({ state });
}

/** The arguments that were returned with the state; for each repetition, fresh ones. */
export async function takeStepArgs(node: TaskNode): Promise<TaskStepArgs> {
  const args = node.stepArgs ?? (await node.run.ledger.issueTaskStepArgs(node.run.task.id, node.vm.id));
  node.stepArgs = undefined;
  return args;
}
