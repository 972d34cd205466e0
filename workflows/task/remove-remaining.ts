import type { VmRef } from '../../contracts/host-calls.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import { persistForever } from '../durable/retry-forever.ts';
import { removeAll } from './finish.ts';
import { newNode } from './node-location.ts';
import { removeVm, stageInStep } from './start-vms.ts';
import type { TaskRun } from './task-run.ts';

/**
 * Removes the VMs of a task that has ended: the workflow before this one was ended from outside when it had written the end,
 * and not removed all of them. Only then are they free.
 */
export async function removeRemaining(run: TaskRun, vms: VmRef[]): Promise<void> {
  const nodes = vms.map((vm, index) => newNode(run, vm, index));
  for (const node of nodes)
    await node.saga.step(
      stageInStep.name,
      async () => undefined,
      () => removeVm(node),
    );
  await Promise.all(await removeAll(run, nodes, new Set(nodes)));
  const ids = nodes.map(({ vm }) => vm.id);
  await notifyWaiters(await persistForever(run, 'the release of the VMs', (ledger) => ledger.releaseVms(ids)));
  run.progress.setAttributes({ state: run.state });
}
