import { type WithWorkflowArgs, type Workflow, WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import {
  type ChildWorkflowHandle,
  type ChildWorkflowOptions,
  getExternalWorkflowHandle,
  log,
  ParentClosePolicy,
  startChild,
} from '@temporalio/workflow';
import type { Notification } from '../../contracts/ledger.ts';
import type { HostId } from '../../model/ids.ts';
import { signalName, workflowId, workflowTaskTimeoutOf } from '../../model/temporal.ts';

/** Starts a workflow that outlives the one that starts it. @returns null where one with this id runs already. */
export async function startDetached<T extends Workflow>(
  workflow: T,
  id: string,
  args: Parameters<T>,
): Promise<ChildWorkflowHandle<T> | null> {
  const options = { ...workflowTaskTimeoutOf(workflow.name), parentClosePolicy: ParentClosePolicy.ABANDON, workflowId: id, args };
  try {
    return await startChild<T>(workflow.name, options as unknown as WithWorkflowArgs<T, ChildWorkflowOptions>);
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    return null;
  }
}

/** Starts a workflow, or sends a signal to the one that runs with its id. */
export async function startOrNotify<T extends Workflow>(
  workflow: T,
  id: string,
  args: Parameters<T>,
  signal: string,
  ...signalArgs: unknown[]
): Promise<void> {
  if ((await startDetached(workflow, id, args)) === null) await notify(id, signal, ...signalArgs);
}

/** Requests the cancellation of a workflow. A failure is logged only: it has ended, and the ledger says how. */
export async function cancelIfRunning(id: string): Promise<void> {
  try {
    await getExternalWorkflowHandle(id).cancel();
  } catch (error) {
    log.info('A workflow could not be cancelled', { workflowId: id, error: String(error) });
  }
}

/** Signals another workflow. A failure is logged only: a workflow that has ended needs no signal, and all others poll. */
export async function notify(id: string, signal: string, ...args: unknown[]): Promise<void> {
  try {
    await getExternalWorkflowHandle(id).signal(signal, ...args);
  } catch (error) {
    log.info('A workflow could not be notified', { workflowId: id, signal, error: String(error) });
  }
}

export async function notifyWaiters(notifications: Notification[]): Promise<void> {
  await Promise.all(
    notifications.map((one) => (one === 'planner' ? notifyPlanner() : notify(workflowId.waiter(one), signalName.placed))),
  );
}

export const notifyPlanner = (): Promise<void> => notify(workflowId.planner(), signalName.replan);

/** Starts the next round of a host's reconciliation now. It removes what a saga left there while the host did not answer. */
export const notifyReconciliation = (host: HostId): Promise<void> => notify(workflowId.reconcile(host), signalName.wakeUp);
