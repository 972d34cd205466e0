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
import type { StreamOrder } from '../contracts/stream.ts';
import type { ConsolePage, ConsoleRange } from '../model/console.ts';
import type { DrainId } from '../model/drain.ts';
import { BerthError, isErrorCode } from '../model/errors.ts';
import type { HostId, ImageId, TaskId, VmId } from '../model/ids.ts';
import type { MigrationId } from '../model/migration.ts';
import type { ReservationId } from '../model/reservation.ts';
import { controlQueue, signalName, workflowId, workflowTaskTimeoutOf, workflowType } from '../model/temporal.ts';
import type { WebhookId } from '../model/webhooks/webhook.ts';

/** A migration, and the parts of its workflow's id. */
export interface MigrationName {
  id: MigrationId;
  vmId: VmId;
  generation: number;
}

/** A drain, and the parts of its workflow's id. */
export interface DrainName {
  id: DrainId;
  host: HostId;
  number: number;
}

/** What the API asks of Temporal. Every start succeeds also when the workflow was started before. */
export interface WorkflowClient {
  startTask(id: TaskId): Promise<void>;
  /** Cancels the task's workflow; starts it when it was never started, since only it may end a task. */
  cancelTask(id: TaskId): Promise<void>;
  startVm(id: VmId): Promise<void>;
  /** Signals the VM's workflow to read what the ledger requests of it; starts it when it was never started. */
  notifyVm(id: VmId): Promise<void>;
  startMigration(migration: MigrationName): Promise<void>;
  /** Cancels the migration's workflow, as cancelTask does. */
  abortMigration(migration: MigrationName): Promise<void>;
  /** Signals housekeeping that capacity was freed: it places what waits now instead of in its next round. */
  notifyHousekeeping(): Promise<void>;
  /** Starts the next round of a host's reconciliation, which removes what an operator has ended there. */
  notifyReconciliation(host: HostId): Promise<void>;
  startDrain(drain: DrainName): Promise<void>;
  /** Signals the drain's workflow that its order has changed; starts it when it was never started. */
  notifyDrain(drain: DrainName): Promise<void>;
  startReservation(id: ReservationId): Promise<void>;
  /** As notifyDrain. */
  notifyReservation(id: ReservationId): Promise<void>;
  /** A build that has ended may be started again, for another attempt. */
  startBuild(id: ImageId, name: string, digest: string): Promise<void>;
  /** Cancels a build's workflow; starts it when it does not run, since only it may end the build. */
  cancelBuild(id: ImageId, name: string, digest: string): Promise<void>;
  /** Starts the workflow that removes a retired image from hosts and repository. */
  startRetirement(id: ImageId): Promise<void>;
  /** The console's content at the VM's host; throws the reading's error, `unavailable` when no worker answers. */
  readConsole(id: VmId, range: ConsoleRange): Promise<ConsolePage>;
  /** Has the VM's host connect for a client; throws the host's error, `unavailable` when no worker answers. */
  openStream(id: VmId, order: StreamOrder): Promise<void>;
  /** Has a webhook's workflow begin deliveries; starts it when it does not run. */
  wakeWebhook(id: WebhookId): Promise<void>;
  ping(): Promise<void>;
}

/** Longer than a healthy server takes; the housekeeping workflow repeats a call that failed. */
const deadlineMs = 3_000;
/** Longer than a host may be silent before its step is given up (workflows/durable/timeouts.ts). */
const onHostDeadlineMs = 45_000;

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

  /** Does `act`; a workflow that was never started, or has ended, is started: it reads the request from the ledger first. */
  async function orStart(act: () => Promise<unknown>, startInstead: () => Promise<void>): Promise<void> {
    try {
      await withShortDeadline(act);
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      await startInstead();
    }
  }

  const cancelOrStart = (type: string, workflow: string, id: string) =>
    orStart(
      () => client.workflow.getHandle(workflow).cancel(),
      () => start(type, workflow, id),
    );

  const signalOrStart = (type: string, workflow: string, id: string, signal: string = signalName.orderChanged) =>
    orStart(
      () => client.workflow.getHandle(workflow).signal(signal),
      () => start(type, workflow, id),
    );

  /** For workflows that may run again under the same id after their end. */
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

  /** Runs a short workflow to its end, and throws its error. */
  async function executeOnHost<T>(what: string, type: string, workflow: string, args: unknown[]): Promise<T> {
    const execute = () =>
      client.workflow.execute<(...args: unknown[]) => Promise<T>>(type, {
        taskQueue: controlQueue,
        workflowId: workflow,
        args,
      });
    try {
      return await client.withDeadline(Date.now() + onHostDeadlineMs, execute);
    } catch (error) {
      const failure = error instanceof WorkflowFailedError ? error.cause : undefined;
      if (failure instanceof ApplicationFailure && failure.type != null && isErrorCode(failure.type))
        throw new BerthError(failure.type, failure.message, { cause: error });
      throw new BerthError('unavailable', `${what}: no worker answered`, { cause: error });
    }
  }

  const nameOf = ({ vmId, generation }: MigrationName) => workflowId.migration(vmId, generation);
  return {
    startTask: (id) => start(workflowType.task, workflowId.task(id), id),
    cancelTask: (id) => cancelOrStart(workflowType.task, workflowId.task(id), id),
    startVm: (id) => start(workflowType.vm, workflowId.vm(id), id),
    notifyVm: (id) => signalOrStart(workflowType.vm, workflowId.vm(id), id, signalName.operationRequested),
    startMigration: (migration) => start(workflowType.migration, nameOf(migration), migration.id),
    abortMigration: (migration) => cancelOrStart(workflowType.migration, nameOf(migration), migration.id),

    startBuild: (id, name, digest) => startUnlessRunning(workflowType.build, workflowId.build(name, digest), id),
    startRetirement: (id) => startUnlessRunning(workflowType.retire, workflowId.retire(id), id),
    cancelBuild: (id, name, digest) =>
      orStart(
        () => client.workflow.getHandle(workflowId.build(name, digest)).cancel(),
        () => startUnlessRunning(workflowType.build, workflowId.build(name, digest), id),
      ),

    async notifyHousekeeping() {
      await withShortDeadline(() => client.workflow.getHandle(workflowId.housekeeping()).signal(signalName.wakeUp));
    },
    async notifyReconciliation(host) {
      await withShortDeadline(() => client.workflow.getHandle(workflowId.reconcile(host)).signal(signalName.wakeUp));
    },
    startDrain: (drain) => start(workflowType.drain, workflowId.drain(drain.host, drain.number), drain.id),
    notifyDrain: ({ id, host, number }) => signalOrStart(workflowType.drain, workflowId.drain(host, number), id),
    startReservation: (id) => start(workflowType.reservation, workflowId.reservation(id), id),
    notifyReservation: (id) => signalOrStart(workflowType.reservation, workflowId.reservation(id), id),

    readConsole: (id, range) =>
      executeOnHost<ConsolePage>(`Reading the console of ${id}`, workflowType.console, workflowId.console(id, randomUUID()), [
        id,
        range,
      ]),
    openStream: (id, order) =>
      executeOnHost<void>(`Connecting to ${id}`, workflowType.stream, workflowId.stream(id, order.id), [id, order]),

    async wakeWebhook(id) {
      const start = { taskQueue: controlQueue, workflowId: workflowId.webhook(id), args: [id], signal: signalName.wakeUp };
      await withShortDeadline(() => client.workflow.signalWithStart(workflowType.webhook, start));
    },

    async ping() {
      await withShortDeadline(() => client.workflowService.getSystemInfo({}));
    },
  };
}
