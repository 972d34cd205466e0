import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import {
  continueAsNew,
  getExternalWorkflowHandle,
  log,
  ParentClosePolicy,
  sleep,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import type { TaskId } from '../model/ids.ts';
import type { MigrationRecord } from '../model/migration.ts';
import { workflowId } from '../model/temporal.ts';
import { taskErrorOf } from './failure.ts';
import { migrateVm } from './migrate-vm.ts';
import { onLedger } from './on-host.ts';
import { now, Progress } from './progress.ts';
import { runTask } from './run-task.ts';
import { waits } from './timeouts.ts';

/** What an API process that died has left undone: starts accepted tasks, cancels unwanted ones. And sweeps. */
export async function keepHouse(pace = 1): Promise<never> {
  const progress = new Progress();
  const { housekeepingEvery, sweepEveryRounds } = waits(pace);
  for (let round = 0; !workflowInfo().continueAsNewSuggested; round += 1) {
    try {
      await keep(pace, progress, round % sweepEveryRounds === 0);
      progress.say('failed', null);
    } catch (error) {
      // The next round tries again what this one could not: nothing of it is lost.
      progress.say('failed', `the round at ${now()} was not finished: ${taskErrorOf(error).message}`);
    }
    await sleep(housekeepingEvery);
  }
  return continueAsNew<typeof keepHouse>(pace);
}

async function keep(pace: number, progress: Progress, sweeping: boolean): Promise<void> {
  const ledger = onLedger(pace);
  const { lostAfterS } = waits(pace);
  const lost = await ledger.tasksWithoutWorkflow(lostAfterS);
  await Promise.all(lost.map((id) => startTask(id, pace)));
  if (lost.length > 0) progress.say('lost', `started ${lost.length} tasks at ${now()}: ${lost.slice(0, 10).join(', ')}`);
  await Promise.all((await ledger.migrationsWithoutWorkflow(lostAfterS)).map((one) => startMigration(one, pace)));
  const unheard = await ledger.tasksToCancel(lostAfterS);
  await Promise.all(unheard.map(cancelTask));
  if (sweeping) progress.say('sweep', `swept ${await ledger.sweep()} rows at ${now()}`);
}

async function startTask(id: TaskId, pace: number): Promise<void> {
  try {
    await startChild(runTask, {
      workflowId: workflowId.task(id),
      args: [id, pace],
      parentClosePolicy: ParentClosePolicy.ABANDON,
    });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
  }
}

async function startMigration({ id, vmId, generation }: MigrationRecord, pace: number): Promise<void> {
  try {
    await startChild(migrateVm, {
      workflowId: workflowId.migration(vmId, generation),
      args: [id, pace],
      parentClosePolicy: ParentClosePolicy.ABANDON,
    });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
  }
}

async function cancelTask(id: TaskId): Promise<void> {
  try {
    await getExternalWorkflowHandle(workflowId.task(id)).cancel();
  } catch (error) {
    // It has ended meanwhile; the next round would see otherwise.
    log.info('A task could not be cancelled', { taskId: id, error: String(error) });
  }
}
