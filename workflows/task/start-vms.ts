import { recordIfFetched } from '../durable/activity-proxies.ts';
import { withFreshUrls } from '../durable/fresh-urls.ts';
import { isoNow } from '../durable/progress.ts';
import { requestTemplate } from '../image/request-template.ts';
import { homeOf } from './node-location.ts';
import { enterState, type NodeStep, runOnAllNodes, takeStepArgs } from './node-step.ts';
import type { TaskNode, TaskRun } from './task-run.ts';

export const stageInStep: NodeStep = {
  name: 'stageIn',
  does: 'data disk, image, overlay and network',
  act: stageInNode,
  undo: removeVm,
  undoneBy: 'removeVm, from every state',
};

export const bootStep: NodeStep = {
  name: 'boot',
  does: 'domain (timeline: `create`), agent, identity, /home/task (timeline: `boot`)',
  act: bootNode,
  undo: null,
  undoneBy: 'with stageIn',
};

export async function stageIn(run: TaskRun, nodes: TaskNode[]): Promise<void> {
  await enterState(run, nodes, 'stagingIn');
  await runOnAllNodes(run, stageInStep, nodes);
  run.bytesIn = nodes.reduce((sum, { bytesIn }) => sum + bytesIn, 0);
}

function stageInNode(node: TaskNode): Promise<void> {
  return withFreshUrls(
    () => takeStepArgs(node),
    async (args) => {
      const { bytes, image } = await node.stagingHost.stageIn(args.stageIn);
      await recordIfFetched(node.run.ledger, node.vm, image);
      node.bytesIn = bytes;
    },
  );
}

/** Removes the domain, then the disks. A VM that moved has a folder at its host, and its disks at its home. */
export async function removeVm(node: TaskNode): Promise<void> {
  const { id, host, home, generation } = node.vm;
  await node.host.removeVm(id, generation);
  if (node.startedAt !== null) node.endedAt ??= isoNow();
  if (home !== host) await homeOf(node).removeDisks(id, generation);
}

/** Starts the domains, and waits until the guests accept commands. */
export async function boot(run: TaskRun, nodes: TaskNode[]): Promise<void> {
  await enterState(run, nodes, 'starting', 'creating');
  await runOnAllNodes(run, bootStep, nodes);
  run.progress.splitStep('create', Math.max(...nodes.map(({ createMs }) => createMs)), 'boot', bootSummary(run));
}

async function bootNode(node: TaskNode): Promise<void> {
  const { run, vm } = node;
  const { createMs, bootMs, boot } = await node.host.ensureRunning(vm);
  run.boots.push({ vm: vm.id, boot });
  requestTemplate(vm, boot, run.pace);
  node.startedAt = new Date(Date.now() - bootMs).toISOString();
  node.createMs = createMs;
}

/** Such as `warm`, or `2 × warm, cold (template-failed)`. */
function bootSummary({ boots }: TaskRun): string | undefined {
  const counts = new Map<string, number>();
  for (const { boot } of boots) {
    const kind = boot.kind === 'warm' ? 'warm' : `cold (${boot.why})`;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  if (counts.size === 0) return undefined;
  return [...counts].map(([kind, count]) => (count === 1 ? kind : `${count} × ${kind}`)).join(', ');
}
