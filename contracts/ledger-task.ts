import type { TaskId, VmId } from '../model/ids.ts';
import type { SkippedOutputs } from '../model/outputs/skipped.ts';
import type { TaskState, TerminalTaskState, VmState } from '../model/states.ts';
import type { TaskError, TaskOutput, TaskSpec, TimelineEntry } from '../model/task.ts';
import type { Boot } from '../model/vm.ts';
import type { RunCall, StageInCall, StageOutCall, VmRef } from './host-calls.ts';
import type { Notification, Placement } from './ledger-placement.ts';

/** A task's row, for its saga. The VM ids were chosen when the task was accepted. */
export interface TaskRecord {
  id: TaskId;
  owner: string;
  /** What its saga decides by. */
  spec: Pick<TaskSpec, 'nodes' | 'timeoutS' | 'lease' | 'outputs' | 'onMissingOutput' | 'keepOutputs'>;
  state: TaskState;
  vmIds: VmId[];
  /** Its owner has requested the cancellation; the request to the workflow may have been lost. */
  cancelRequested: boolean;
  /** Of a task that has ended: its VMs that hosts may still have. Absent from histories of 0.2.0. */
  remaining?: VmRef[];
  /**
   * Its search attributes show the states in which it lasts: queued, stagingIn until its command runs, running until its end.
   * Absent: of a workflow that began when they showed each.
   */
  fewUpserts?: true;
}

/** Arguments of the steps on one VM's host, which fetches the rest itself. */
export interface TaskStepArgs {
  stageIn: StageInCall;
  run: RunCall;
  stageOut: StageOutCall;
  /** The workflow of a migration of this VM that is under way; null: there is none. */
  migrationWorkflowId: string | null;
}

export interface VmBoot {
  vm: VmId;
  boot: Boot;
}

export interface TaskOutcome {
  state: TerminalTaskState;
  exitCode: number | null;
  error: TaskError | null;
  outputs: TaskOutput[];
  /** Nodes whose outputs are those that the repository has stored of them: the ledger has a row of each. */
  storedNodes?: number[];
  /** The last attempts to store outputs: what another one has stored is none. */
  attempts?: string[];
  /** Absent: of a workflow of a version that took all or nothing. */
  skipped?: SkippedOutputs;
  bytesIn: number;
  bytesOut: number;
  /** When each VM's domain existed, by the workflow's clock; null when it never did. */
  vms: { id: VmId; startedAt: string | null; endedAt: string | null }[];
  timeline: TimelineEntry[];
  /** When this was reported, by the workflow's clock. */
  reportedAt?: string;
}

export interface TaskLedger {
  loadTask(id: TaskId): Promise<TaskRecord>;
  /**
   * Places queued tasks, oldest first, under the placement lock, and returns the result for this one. A placed task's VMs
   * are rows in state `reserved`, which count against their hosts.
   */
  reserveTask(id: TaskId): Promise<Placement>;
  /**
   * Writes the task's next state; for its current state only the timeline. The first `running` writes the event `started`.
   * `vmState` is the next state of those of its VMs that may legally have it, `boots` are recorded, in the same transaction.
   * A task that has ended is not changed.
   * @returns the arguments of the step that begins, one per VM in the order of nodes; empty for a step without arguments
   */
  advanceTask(
    id: TaskId,
    state: TaskState,
    timeline: TimelineEntry[],
    vmState?: VmState,
    boots?: VmBoot[],
  ): Promise<TaskStepArgs[]>;
  /** Fresh signed URLs for one VM of a task, after those of advanceTask have expired. */
  issueTaskStepArgs(id: TaskId, vmId: VmId): Promise<TaskStepArgs>;
  /**
   * Returns the task to the queue, when a host became unreachable before any domain was started: its VMs have no host, and
   * get a higher generation with the next placement.
   */
  requeueTask(id: TaskId): Promise<Notification[]>;
  /**
   * Frees these VMs as releaseVms does; then writes the task's end, its outputs and its completion event, all in one
   * transaction. Repeating it changes nothing.
   */
  finishTask(id: TaskId, outcome: TaskOutcome, free: VmId[]): Promise<Notification[]>;
  /** Accepted tasks whose workflow was never started, because the API died before. */
  listTasksWithoutWorkflow(olderThanS: number): Promise<TaskId[]>;
  /**
   * One page of the tasks that have begun and not ended, by id, beginning after `after`; the last page is shorter.
   * Housekeeping checks that each has its workflow.
   */
  listActiveTasks(after: TaskId | null): Promise<TaskId[]>;
  /** Tasks with a workflow that have not ended so long after their cancellation was requested: the request was lost. */
  listTasksToCancel(olderThanS: number): Promise<TaskId[]>;
  /** Removes expired idempotency keys, abandoned uploads and claims on events. @returns the number of rows */
  sweepExpiredRows(): Promise<number>;
  /** Removes events, and ended tasks and VMs, that are kept no more; for some seconds at most. */
  removeExpired(): Promise<RemovedRows>;
}

export interface RemovedRows {
  rows: number;
  /** The time was up: there is more to remove. */
  more: boolean;
}
