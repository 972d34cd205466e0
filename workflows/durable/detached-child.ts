import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import { ParentClosePolicy } from '@temporalio/workflow';

/** How a workflow is started that goes its own way from then on, whatever becomes of the one that started it. */
export const detachedChild = { parentClosePolicy: ParentClosePolicy.ABANDON } as const;

/** What was started; null where one of that id is under way: somebody else was first. */
export async function startIfAbsent<T>(started: Promise<T>): Promise<T | null> {
  try {
    return await started;
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    return null;
  }
}
