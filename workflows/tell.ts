import { getExternalWorkflowHandle, log } from '@temporalio/workflow';
import type { TaskId } from '../model/ids.ts';
import { signalName, workflowId } from '../model/temporal.ts';

/** Signals another workflow. One that has ended needs no telling; whoever waits also polls, so nothing hangs on it. */
export async function tell(id: string, signal: string): Promise<void> {
  try {
    await getExternalWorkflowHandle(id).signal(signal);
  } catch (error) {
    log.info('A workflow could not be told', { workflowId: id, signal, error: String(error) });
  }
}

export async function tellPlaced(tasks: TaskId[]): Promise<void> {
  await Promise.all(tasks.map((task) => tell(workflowId.task(task), signalName.placed)));
}
