import { condition, getExternalWorkflowHandle, log } from '@temporalio/workflow';
import type { HostActivities } from '../activities/host/contract.ts';
import type { VmPlace } from '../activities/ledger/contract.ts';
import type { HostId } from '../model/ids.ts';
import type { VmSpec } from '../model/vm.ts';
import { onHost } from './on-host.ts';
import { now } from './progress.ts';
import type { Node, TaskRun } from './task-nodes.ts';
import { waits } from './timeouts.ts';

/** The steps of one node's VM on a host; one that is silent is waited for, and the details say so. */
export function onHostOf(run: TaskRun, host: HostId, index: number, vmId: string): HostActivities {
  const wait = (step: string): void =>
    run.progress.say(`silent ${index}`, `**${host} does not answer** since ${now()}; ${step} of ${vmId} waits for its worker`);
  return onHost(host, run.pace, { wait });
}

/** From here on the node's steps go to where its VM is now. */
export function relocate(run: TaskRun, node: Node, at: Pick<VmSpec, 'host' | 'home' | 'generation'>): void {
  const { host, home, generation } = at;
  if (host !== node.vm.host) {
    node.host = onHostOf(run, host, node.index, node.vm.id);
    run.progress.say(`moved ${node.index}`, `${node.vm.id} moved from ${node.vm.host} to ${host}, seen at ${now()}`);
  }
  node.vm = { ...node.vm, host, home, generation };
}

/**
 * Waits until nobody moves the VM, and says where it is then.
 * @param end whether a migration that is under way is to be ended; it ends by itself in any case, one way or the other
 */
export async function stillPlace(run: TaskRun, node: Node, first: VmPlace, end: boolean): Promise<VmPlace> {
  const { first: shortest, longest } = waits(run.pace).unclearPause;
  let place = first;
  let asked: string | null = null;
  for (let pause = shortest; place.movedBy !== null; pause = Math.min(pause * 2, longest)) {
    if (end && asked !== place.movedBy) {
      asked = place.movedBy;
      await cancelMigration(place.movedBy);
    }
    run.progress.say(`moving ${node.index}`, `${node.vm.id} moves: see ${place.movedBy}`);
    const heard = run.moves;
    await condition(() => run.moves > heard, pause);
    place = await run.ledger.vmPlace(node.vm.id);
  }
  run.progress.say(`moving ${node.index}`, null);
  return place;
}

async function cancelMigration(id: string): Promise<void> {
  try {
    await getExternalWorkflowHandle(id).cancel();
  } catch (error) {
    // It has ended meanwhile; the ledger will say so.
    log.info('A migration could not be cancelled', { workflowId: id, error: String(error) });
  }
}

/** Moves the node's steps to a place that is one. */
export function settleAt(run: TaskRun, node: Node, { host, home, generation }: VmPlace): void {
  if (host !== null && home !== null) relocate(run, node, { host, home, generation });
}
