import { condition, getExternalWorkflowHandle, log } from '@temporalio/workflow';
import type { HostActivities } from '../../contracts/host.ts';
import type { VmLocation } from '../../contracts/ledger.ts';
import type { HostId } from '../../model/ids.ts';
import type { VmSpec } from '../../model/vm.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { isoNow } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';
import type { Node, TaskRun } from './task-steps.ts';

/** The steps of one node's VM on a host; one that is silent is waited for, and the details say so. */
export function nodeHost(run: TaskRun, host: HostId, index: number, vmId: string): HostActivities {
  const wait = (step: string): void =>
    run.progress.setDetail(
      `silent ${index}`,
      `**${host} does not answer** since ${isoNow()}; ${step} of ${vmId} waits for its worker`,
    );
  return onHost(host, run.pace, { wait });
}

/** From here on the node's steps go to where its VM is now. */
export function relocate(run: TaskRun, node: Node, at: Pick<VmSpec, 'host' | 'home' | 'generation'>): void {
  const { host, home, generation } = at;
  if (host !== node.vm.host) {
    node.host = nodeHost(run, host, node.index, node.vm.id);
    run.progress.setDetail(`moved ${node.index}`, `${node.vm.id} moved from ${node.vm.host} to ${host}, seen at ${isoNow()}`);
  }
  node.vm = { ...node.vm, host, home, generation };
}

/**
 * Waits until nobody moves the VM, and says where it is then.
 * @param abortMigration whether a migration that is under way is to be ended; it ends by itself in any case, one way or the other
 */
export async function waitUntilSettled(
  run: TaskRun,
  node: Node,
  first: VmLocation,
  abortMigration: boolean,
): Promise<VmLocation> {
  const { initialMs: shortest, maxMs: longest } = timing(run.pace).ambiguousBackoff;
  let location = first;
  let asked: string | null = null;
  for (let backoffMs = shortest; location.migrationWorkflowId !== null; backoffMs = Math.min(backoffMs * 2, longest)) {
    if (abortMigration && asked !== location.migrationWorkflowId) {
      asked = location.migrationWorkflowId;
      await cancelMigration(location.migrationWorkflowId);
    }
    run.progress.setDetail(`moving ${node.index}`, `${node.vm.id} moves: see ${location.migrationWorkflowId}`);
    const changesSeen = run.locationChanges;
    await condition(() => run.locationChanges > changesSeen, backoffMs);
    location = await run.ledger.loadVmLocation(node.vm.id);
  }
  run.progress.setDetail(`moving ${node.index}`, null);
  return location;
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
export function updateLocation(run: TaskRun, node: Node, { host, home, generation }: VmLocation): void {
  if (host !== null && home !== null) relocate(run, node, { host, home, generation });
}
