import { randomUUID } from 'node:crypto';
import {
  type Client,
  WorkflowExecutionAlreadyStartedError,
  WorkflowFailedError,
  WorkflowIdConflictPolicy,
  WorkflowIdReusePolicy,
  WorkflowNotFoundError,
} from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import type { ConsolePage, ConsoleRange } from '../model/console.ts';
import type { DrainId } from '../model/drain.ts';
import { BerthError, isErrorCode } from '../model/errors.ts';
import type { HostId, ImageId, TaskId, VmId } from '../model/ids.ts';
import type { MigrationId } from '../model/migration.ts';
import type { ReservationId } from '../model/reservation.ts';
import { controlQueue, signalName, workflowId, workflowTaskTimeoutOf, workflowType } from '../model/temporal.ts';

/** A migration and what its workflow's id is made of. */
export interface MigrationName {
  id: MigrationId;
  vmId: VmId;
  generation: number;
}

/** A drain and what its workflow's id is made of. */
export interface DrainName {
  id: DrainId;
  host: HostId;
  number: number;
}

/** All that the API asks of Temporal. */
export interface WorkflowClient {
  /** Success also when it was started before. */
  startTask(id: TaskId): Promise<void>;
  /** Asks the task's workflow to cancel; starts it first where it isn't, since only it may end a task. */
  cancelTask(id: TaskId): Promise<void>;
  /** Success also when it was started before. */
  startVm(id: VmId): Promise<void>;
  /** Something is wanted of it: its workflow is to look; it is started where it isn't. */
  notifyVm(id: VmId): Promise<void>;
  /** Success also when it was started before. */
  startMigration(move: MigrationName): Promise<void>;
  /** Asks for the abort, as cancelTask does. */
  abortMigration(move: MigrationName): Promise<void>;
  /** There may be room for what waits: the housekeeping looks at once, and anyway soon. */
  notifyHousekeeping(): Promise<void>;
  /** Success also when it was started before. */
  startDrain(drain: DrainName): Promise<void>;
  /** Says that the ledger has something new of it; one that was never started is started. */
  notifyDrain(drain: DrainName): Promise<void>;
  /** Success also when it was started before. */
  startReservation(id: ReservationId): Promise<void>;
  /** As notifyDrain. */
  notifyReservation(id: ReservationId): Promise<void>;
  /** Success also when it runs already. One that ended may be started again, for another attempt. */
  startBuild(id: ImageId, name: string, digest: string): Promise<void>;
  /** Asks a build to end; starts it first where it isn't, since only it may end it. */
  cancelBuild(id: ImageId, name: string, digest: string): Promise<void>;
  /** Sweeps a retired image from hosts and repository. */
  startRetirement(id: ImageId): Promise<void>;
  /** What a VM's host has of its console now; throws what the reading met, `unavailable` when nobody answers. */
  readConsole(id: VmId, range: ConsoleRange): Promise<ConsolePage>;
  ping(): Promise<void>;
}

/** Longer than a healthy server ever takes; a housekeeping workflow does what this failed to do. */
const deadlineMs = 3_000;
/** Longer than a host may be silent before its step is given up (workflows/durable/timeouts.ts). */
const consoleDeadlineMs = 45_000;

export function openWorkflowClient(client: Client): WorkflowClient {
  const withShortDeadline = <T>(act: () => Promise<T>): Promise<T> => client.withDeadline(Date.now() + deadlineMs, act);

  async function start(type: string, workflow: string, id: string): Promise<void> {
    try {
      await withShortDeadline(() =>
        client.workflow.start(type, {
          taskQueue: controlQueue,
          workflowId: workflow,
          workflowIdReusePolicy: WorkflowIdReusePolicy.REJECT_DUPLICATE,
          ...workflowTaskTimeoutOf(type),
          args: [id],
        }),
      );
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    }
  }

  /** One that was never started, or is over, is started: the ledger holds the wish already, and the workflow reads it first. */
  async function cancelOrStart(type: string, workflow: string, id: string): Promise<void> {
    try {
      await withShortDeadline(() => client.workflow.getHandle(workflow).cancel());
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      await start(type, workflow, id);
    }
  }

  async function signalOrStart(type: string, workflow: string, id: string): Promise<void> {
    try {
      await withShortDeadline(() => client.workflow.getHandle(workflow).signal(signalName.orderChanged));
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      await start(type, workflow, id);
    }
  }

  /** Of those that may run again under the same id once they have ended. */
  async function startUnlessRunning(type: string, workflow: string, id: string): Promise<void> {
    await withShortDeadline(() =>
      client.workflow.start(type, {
        taskQueue: controlQueue,
        workflowId: workflow,
        workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
        args: [id],
      }),
    );
  }

  const nameOf = ({ vmId, generation }: MigrationName) => workflowId.migration(vmId, generation);
  return {
    startTask: (id) => start(workflowType.task, workflowId.task(id), id),
    cancelTask: (id) => cancelOrStart(workflowType.task, workflowId.task(id), id),
    startVm: (id) => start(workflowType.vm, workflowId.vm(id), id),
    async notifyVm(id) {
      try {
        await withShortDeadline(() => client.workflow.getHandle(workflowId.vm(id)).signal(signalName.operationRequested));
      } catch (error) {
        if (!(error instanceof WorkflowNotFoundError)) throw error;
        await start(workflowType.vm, workflowId.vm(id), id);
      }
    },
    startMigration: (move) => start(workflowType.migration, nameOf(move), move.id),
    abortMigration: (move) => cancelOrStart(workflowType.migration, nameOf(move), move.id),

    startBuild: (id, name, digest) => startUnlessRunning(workflowType.build, workflowId.build(name, digest), id),
    startRetirement: (id) => startUnlessRunning(workflowType.retire, workflowId.retire(id), id),
    async cancelBuild(id, name, digest) {
      try {
        await withShortDeadline(() => client.workflow.getHandle(workflowId.build(name, digest)).cancel());
      } catch (error) {
        if (!(error instanceof WorkflowNotFoundError)) throw error;
        await startUnlessRunning(workflowType.build, workflowId.build(name, digest), id);
      }
    },

    async notifyHousekeeping() {
      await withShortDeadline(() => client.workflow.getHandle(workflowId.housekeeping()).signal(signalName.wakeUp));
    },
    startDrain: (drain) => start(workflowType.drain, workflowId.drain(drain.host, drain.number), drain.id),
    notifyDrain: ({ id, host, number }) => signalOrStart(workflowType.drain, workflowId.drain(host, number), id),
    startReservation: (id) => start(workflowType.reservation, workflowId.reservation(id), id),
    notifyReservation: (id) => signalOrStart(workflowType.reservation, workflowId.reservation(id), id),

    async readConsole(id, range) {
      const read = () =>
        client.workflow.execute<(id: VmId, range: ConsoleRange) => Promise<ConsolePage>>(workflowType.console, {
          taskQueue: controlQueue,
          workflowId: workflowId.console(id, randomUUID()),
          args: [id, range],
        });
      try {
        return await client.withDeadline(Date.now() + consoleDeadlineMs, read);
      } catch (error) {
        const met = error instanceof WorkflowFailedError ? error.cause : undefined;
        if (met instanceof ApplicationFailure && met.type != null && isErrorCode(met.type))
          throw new BerthError(met.type, met.message, { cause: error });
        throw new BerthError('unavailable', `Reading the console of ${id}: nobody answered`, { cause: error });
      }
    },

    async ping() {
      await withShortDeadline(() => client.workflowService.getSystemInfo({}));
    },
  };
}
