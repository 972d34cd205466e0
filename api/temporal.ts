import {
  type Client,
  WorkflowExecutionAlreadyStartedError,
  WorkflowIdReusePolicy,
  WorkflowNotFoundError,
} from '@temporalio/client';
import type { TaskId, VmId } from '../model/ids.ts';
import type { MigrationId } from '../model/migration.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../model/temporal.ts';

/** A migration and what its workflow's id is made of. */
export interface MigrationName {
  id: MigrationId;
  vmId: VmId;
  generation: number;
}

/** All that the API asks of Temporal. */
export interface TaskWorkflows {
  /** Success also when it was started before. */
  startTask(id: TaskId): Promise<void>;
  /** Asks the task's workflow to cancel; starts it first where it isn't, since only it may end a task. */
  cancelTask(id: TaskId): Promise<void>;
  /** Success also when it was started before. */
  startMigration(move: MigrationName): Promise<void>;
  /** Asks for the abort, as cancelTask does. */
  abortMigration(move: MigrationName): Promise<void>;
  /** There may be room for what waits: the housekeeping looks at once, and anyway soon. */
  roomChanged(): Promise<void>;
  ping(): Promise<void>;
}

/** Longer than a healthy server ever takes; a housekeeping workflow does what this failed to do. */
const deadlineMs = 3_000;

export function openTaskWorkflows(client: Client): TaskWorkflows {
  const soon = <T>(act: () => Promise<T>): Promise<T> => client.withDeadline(Date.now() + deadlineMs, act);

  async function start(type: string, workflow: string, id: string): Promise<void> {
    try {
      await soon(() =>
        client.workflow.start(type, {
          taskQueue: controlQueue,
          workflowId: workflow,
          workflowIdReusePolicy: WorkflowIdReusePolicy.REJECT_DUPLICATE,
          args: [id],
        }),
      );
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    }
  }

  /** One that was never started, or is over, is started: the ledger holds the wish already, and the workflow reads it first. */
  async function cancel(type: string, workflow: string, id: string): Promise<void> {
    try {
      await soon(() => client.workflow.getHandle(workflow).cancel());
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      await start(type, workflow, id);
    }
  }

  const nameOf = ({ vmId, generation }: MigrationName) => workflowId.migration(vmId, generation);
  return {
    startTask: (id) => start(workflowType.task, workflowId.task(id), id),
    cancelTask: (id) => cancel(workflowType.task, workflowId.task(id), id),
    startMigration: (move) => start(workflowType.migration, nameOf(move), move.id),
    abortMigration: (move) => cancel(workflowType.migration, nameOf(move), move.id),

    async roomChanged() {
      await soon(() => client.workflow.getHandle(workflowId.housekeeping()).signal(signalName.lookNow));
    },

    async ping() {
      await soon(() => client.workflowService.getSystemInfo({}));
    },
  };
}
