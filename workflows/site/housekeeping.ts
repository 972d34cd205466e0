import { continueAsNew } from '@temporalio/workflow';
import type { TaskId } from '../../model/ids.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { drainHost } from '../drain/drain-host.ts';
import { reserveHosts } from '../drain/reserve-hosts.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { cancelIfRunning, notifyWaiters, startDetached, startOrNotify } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';
import { WakeUp } from '../durable/wake-up.ts';
import { runImageHousekeeping } from '../image/image-housekeeping.ts';
import { startMigration } from '../migration/start-migration.ts';
import { runTask } from '../task/run-task.ts';
import { runVm } from '../vm/run-vm.ts';

/**
 * Completes what an API process left undone when it died: starts workflows of accepted resources, cancels those whose
 * cancellation was lost. Restarts tasks whose workflow was ended from outside, places what waits, and sweeps expired rows.
 * The signal `wakeUp` starts a round at once.
 */
export async function runHousekeeping(pace = 1): Promise<never> {
  const progress = new Progress();
  const { housekeepingIntervalMs, sweepEveryRounds } = timing(pace);
  const cursor: Cursor = { after: null };
  const wakeUp = new WakeUp(signalName.wakeUp);
  for (let round = 0; !isHistoryLong(); round += 1) {
    wakeUp.reset();
    try {
      await runRound(pace, progress, cursor, round % sweepEveryRounds === 0);
      progress.setDetail('failed', null);
    } catch (error) {
      // The next round repeats all of it.
      progress.setDetail('failed', `the round at ${isoNow()} failed: ${taskErrorOf(error).message}`);
    }
    await wakeUp.wait(housekeepingIntervalMs);
  }
  return continueAsNew<typeof runHousekeeping>(pace);
}

/** The last active task that was checked: each round checks a page of those after it, then starts over. */
interface Cursor {
  after: TaskId | null;
}

async function runRound(pace: number, progress: Progress, cursor: Cursor, sweeping: boolean): Promise<void> {
  const ledger = onLedger(pace);
  const { orphanedAfterS } = timing(pace);
  const unstarted = await ledger.listTasksWithoutWorkflow(orphanedAfterS);
  await Promise.all(unstarted.map((id) => startTask(id, pace)));
  if (unstarted.length > 0)
    progress.setDetail('unstarted', `started ${unstarted.length} tasks at ${isoNow()}: ${unstarted.slice(0, 10).join(', ')}`);
  const migrations = await ledger.listMigrationsWithoutWorkflow(orphanedAfterS);
  await Promise.all(migrations.map((migration) => startMigration(migration, pace)));
  const drains = await ledger.listDrainsWithoutWorkflow(orphanedAfterS);
  await Promise.all(drains.map(({ id, host, number }) => startDetached(drainHost, workflowId.drain(host, number), [id, pace])));
  const reservations = await ledger.listReservationsWithoutWorkflow(orphanedAfterS);
  await Promise.all(reservations.map((id) => startDetached(reserveHosts, workflowId.reservation(id), [id, pace])));
  const vms = await ledger.listVmsToNotify(orphanedAfterS);
  await Promise.all(vms.map(({ id }) => startOrNotify(runVm, workflowId.vm(id), [id, pace], signalName.operationRequested)));
  const toCancel = await ledger.listTasksToCancel(orphanedAfterS);
  await Promise.all(toCancel.map((id) => cancelIfRunning(workflowId.task(id))));
  await runImageHousekeeping(pace, ledger);
  await restartInterrupted(pace, progress, cursor, await ledger.listActiveTasks(cursor.after));
  // Releasing no VM places what fits by now: a host that accepts tasks again causes no placement by itself.
  await notifyWaiters(await ledger.releaseVms([]));
  if (sweeping) progress.setDetail('sweep', `swept ${await ledger.sweepExpiredRows()} rows at ${isoNow()}`);
}

async function restartInterrupted(pace: number, progress: Progress, cursor: Cursor, page: TaskId[]): Promise<void> {
  cursor.after = page.at(-1) ?? null;
  const started = await Promise.all(page.map(async (id) => ((await startTask(id, pace)) === null ? [] : [id])));
  const interrupted = started.flat();
  if (interrupted.length > 0)
    progress.setDetail('interrupted', `restarted at ${isoNow()}, without a workflow before: ${interrupted.join(', ')}`);
}

const startTask = (id: TaskId, pace: number) => startDetached(runTask, workflowId.task(id), [id, pace]);
