import type { TaskOutcome } from '../../contracts/ledger.ts';
import type { HostId, TaskId } from '../../model/ids.ts';
import { isTerminal } from '../../model/states.ts';
import { workflowId } from '../../model/temporal.ts';
import { endTask, lockTask, readStoredOutputs } from '../tasks/finish-task.ts';
import type { Transaction } from '../transaction.ts';
import { endVm, type RecordEnd } from './end-vm.ts';
import { requestWorkflowEnd } from './workflow-ends.ts';

/**
 * Ends a task as failed within the caller's transaction, with its completion event and its usage until now; outputs that were
 * stored already are kept. Its VMs end as endVm ends them. The caller holds the placement lock.
 * @returns the hosts on which its VMs are fenced; null: it was over already
 */
export async function endTaskWithVms(tx: Transaction, id: TaskId, ending: RecordEnd): Promise<HostId[] | null> {
  const row = await lockTask(tx, id);
  if (isTerminal(row.state)) return null;
  const outputs = await readStoredOutputs(tx, id, 'all');
  const iso = (at: string | null) => (at === null ? null : new Date(at).toISOString());
  const outcome: TaskOutcome = {
    state: 'failed',
    exitCode: null,
    error: ending.error,
    outputs,
    bytesIn: 0,
    bytesOut: outputs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    vms: row.vms.map((vm) => ({ id: vm.id, startedAt: iso(vm.startedAt), endedAt: vm.startedAt === null ? null : ending.now })),
    timeline: row.timeline,
  };
  await endTask(tx, id, row, outcome, ending.now);
  await requestWorkflowEnd(tx, workflowId.task(id), ending.error.message, ending.now);
  const hosts: HostId[] = [];
  for (const vm of row.vms) hosts.push(...(await endVm(tx, vm.id, ending)));
  return [...new Set(hosts)];
}
