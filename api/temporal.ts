import {
  type Client,
  WorkflowExecutionAlreadyStartedError,
  WorkflowIdReusePolicy,
  WorkflowNotFoundError,
} from '@temporalio/client';
import type { TaskId } from '../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../model/temporal.ts';

/** All that the API asks of Temporal. */
export interface TaskWorkflows {
  /** Success also when it was started before. */
  startTask(id: TaskId): Promise<void>;
  /** Asks the task's workflow to cancel; starts it first where it isn't, since only it may end a task. */
  cancelTask(id: TaskId): Promise<void>;
  ping(): Promise<void>;
}

/** Longer than a healthy server ever takes; a housekeeping workflow does what this failed to do. */
const deadlineMs = 3_000;

export function openTaskWorkflows(client: Client): TaskWorkflows {
  const soon = <T>(act: () => Promise<T>): Promise<T> => client.withDeadline(Date.now() + deadlineMs, act);

  async function startTask(id: TaskId): Promise<void> {
    try {
      await soon(() =>
        client.workflow.start(workflowType.task, {
          taskQueue: controlQueue,
          workflowId: workflowId.task(id),
          workflowIdReusePolicy: WorkflowIdReusePolicy.REJECT_DUPLICATE,
          args: [id],
        }),
      );
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    }
  }

  return {
    startTask,

    async cancelTask(id) {
      try {
        await soon(() => client.workflow.getHandle(workflowId.task(id)).cancel());
      } catch (error) {
        if (!(error instanceof WorkflowNotFoundError)) throw error;
        // Never started, or over. The ledger holds the wish already, and the workflow reads it first.
        await startTask(id);
      }
    },

    async ping() {
      await soon(() => client.workflowService.getSystemInfo({}));
    },
  };
}
