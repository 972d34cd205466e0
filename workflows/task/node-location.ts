import type { HostCalls, VmRef } from '../../contracts/host-calls.ts';
import type { VmLocation } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { unreachableText } from '../durable/detail-texts.ts';
import { cancelIfRunning } from '../durable/other-workflows.ts';
import { isoNow } from '../durable/progress.ts';
import { Saga } from '../durable/saga.ts';
import { waitUntilSettled } from '../vm/wait-until-settled.ts';
import type { TaskNode, TaskRun } from './task-run.ts';

export function newNode(run: TaskRun, vm: VmRef, index: number): TaskNode {
  return {
    run,
    index,
    label: run.task.vmIds.length === 1 ? vm.host : `${vm.host} (node${index})`,
    vm,
    stagingHost: onHost(vm.host, run.pace, 'throw'),
    host: waitingHost(run, vm.host, index, vm.id),
    saga: new Saga(),
    stepArgs: undefined,
    bytesIn: 0,
    createMs: 0,
    result: null,
    stagedOut: null,
    diskHostAddress: null,
    startedAt: null,
    endedAt: null,
    removing: false,
    stuck: false,
  };
}

function waitingHost(run: TaskRun, host: HostId, index: number, vmId: VmId): HostCalls {
  const wait = (step: string): void => run.progress.setDetail(`silent ${index}`, unreachableText(host, `${step} of ${vmId}`));
  return onHost(host, run.pace, { wait });
}

/** The activities on the host that has the node's disks. */
export const homeOf = ({ run, vm, index }: TaskNode): HostCalls => waitingHost(run, vm.home, index, vm.id);

/** Directs the node's next steps to where its VM is now. */
export function relocate(node: TaskNode, { host, home, generation }: Pick<VmRef, 'host' | 'home' | 'generation'>): void {
  const { run, index, vm } = node;
  if (host !== vm.host) {
    node.host = waitingHost(run, host, index, vm.id);
    run.progress.setDetail(`moved ${index}`, `${vm.id} moved from ${vm.host} to ${host}, observed at ${isoNow()}`);
  }
  node.vm = { ...vm, host, home, generation };
}

/** The same, for a VM that may have no host. */
export function updateLocation(node: TaskNode, { host, home, generation }: VmLocation): void {
  if (host !== null && home !== null) relocate(node, { host, home, generation });
}

/**
 * Waits until no migration of the node's VM is under way. @returns where it is then
 * @param abortMigration cancels one that is under way; otherwise it ends by itself
 * @param known the location, where the caller has just read it
 */
export async function waitUntilNodeSettled(node: TaskNode, abortMigration: boolean, known?: VmLocation): Promise<VmLocation> {
  const { run, index, vm } = node;
  const migrating = {
    id: vm.id,
    ledger: run.ledger,
    pace: run.pace,
    get signalsReceived() {
      return run.locationChanges;
    },
  };
  let cancelled: string | null = null;
  const onMigration = async (migration: string): Promise<void> => {
    run.progress.setDetail(`moving ${index}`, `${vm.id} moves: see ${migration}`);
    if (!abortMigration || cancelled === migration) return;
    cancelled = migration;
    await cancelIfRunning(migration);
  };
  const location = await waitUntilSettled(migrating, onMigration, known);
  run.progress.setDetail(`moving ${index}`, null);
  return location;
}
