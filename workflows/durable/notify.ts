import { getExternalWorkflowHandle, log } from '@temporalio/workflow';
import type { Notification } from '../../contracts/ledger.ts';
import type { HostId } from '../../model/ids.ts';
import { signalName, workflowId } from '../../model/temporal.ts';

/** Signals another workflow. One that has ended needs no telling; whoever waits also polls, so nothing hangs on it. */
export async function notify(id: string, signal: string, ...args: unknown[]): Promise<void> {
  try {
    await getExternalWorkflowHandle(id).signal(signal, ...args);
  } catch (error) {
    log.info('A workflow could not be told', { workflowId: id, signal, error: String(error) });
  }
}

export async function notifyWaiters(notifications: Notification[]): Promise<void> {
  await Promise.all(
    notifications.map((one) => (one === 'planner' ? notifyPlanner() : notify(workflowId.waiter(one), signalName.placed))),
  );
}

export const notifyPlanner = (): Promise<void> => notify(workflowId.planner(), signalName.replan);

/** What was left at a host that didn't answer is found by its reconciliation: at its next look, or now, if it is back. */
export const notifyReconciliation = (host: HostId): Promise<void> => notify(workflowId.reconcile(host), signalName.wakeUp);
