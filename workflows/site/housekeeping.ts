import { continueAsNew, patched } from '@temporalio/workflow';
import type { ActiveWork, ActiveWorkCursor } from '../../contracts/ledger.ts';
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
import { buildImage } from '../image/build-image.ts';
import { runImageHousekeeping } from '../image/image-housekeeping.ts';
import { startMigration } from '../migration/start-migration.ts';
import { runTask } from '../task/run-task.ts';
import { runVm } from '../vm/run-vm.ts';
import { monitorHost } from './monitor-host.ts';
import { planLeases } from './plan-leases.ts';

/**
 * Completes what an API process left undone when it died: starts workflows of accepted resources, cancels those whose
 * cancellation was lost. Restarts work of every kind whose workflow was ended from outside, places what waits, sweeps
 * expired rows, and removes what is kept no more. The signal `wakeUp` starts a round at once.
 * @param cursor where the run before this one was with its pages
 */
export async function runHousekeeping(pace = 1, cursor: Cursor = firstPages): Promise<never> {
  const progress = new Progress();
  const { housekeepingIntervalMs, sweepEveryRounds } = timing(pace);
  const pages: Cursor = { ...cursor };
  const wakeUp = new WakeUp(signalName.wakeUp);
  // Whether the last round has left something to remove.
  let more = false;
  for (let round = 0; !isHistoryLong(); round += 1) {
    wakeUp.reset();
    try {
      const sweeping = round % sweepEveryRounds === 0;
      await runRound(pace, progress, pages, sweeping);
      if (patched('retention') && (sweeping || more)) more = await removeExpired(pace, progress);
      progress.setDetail('failed', null);
    } catch (error) {
      // The next round repeats all of it.
      progress.setDetail('failed', `the round at ${isoNow()} failed: ${taskErrorOf(error).message}`);
    }
    await wakeUp.wait(housekeepingIntervalMs);
  }
  return continueAsNew<typeof runHousekeeping>(pace, pages);
}

/** The last active task that was checked, and the last work of each other kind: each round checks a page of what is after. */
interface Cursor {
  after: TaskId | null;
  work: ActiveWorkCursor;
}

const firstPages: Cursor = {
  after: null,
  work: { vm: null, migration: null, drain: null, reservation: null, build: null, host: null },
};

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
  if (patched('active-work')) await restartWork(pace, progress, cursor, await ledger.listActiveWork(cursor.work));
  // Releasing no VM places what fits by now: a host that accepts tasks again causes no placement by itself.
  await notifyWaiters(await ledger.releaseVms([]));
  if (sweeping) progress.setDetail('sweep', `swept ${await ledger.sweepExpiredRows()} rows at ${isoNow()}`);
}

async function removeExpired(pace: number, progress: Progress): Promise<boolean> {
  const { rows, more } = await onLedger(pace).removeExpired();
  progress.setDetail('retention', `removed ${rows} rows at ${isoNow()} that are kept no more${more ? '; there are more' : ''}`);
  return more;
}

async function restartInterrupted(pace: number, progress: Progress, cursor: Cursor, page: TaskId[]): Promise<void> {
  cursor.after = page.at(-1) ?? null;
  const started = await Promise.all(page.map(async (id) => ((await startTask(id, pace)) === null ? [] : [id])));
  const interrupted = started.flat();
  if (interrupted.length > 0)
    progress.setDetail('interrupted', `restarted at ${isoNow()}, without a workflow before: ${interrupted.join(', ')}`);
}

/** Temporal refuses to start a workflow that runs; each begins by reading in the ledger how far it has come. */
async function restartWork(pace: number, progress: Progress, cursor: Cursor, work: ActiveWork): Promise<void> {
  cursor.work = work.next;
  const starts: [string, Promise<unknown>][] = [
    ...work.vms.map((id): [string, Promise<unknown>] => [id, startDetached(runVm, workflowId.vm(id), [id, pace])]),
    ...work.migrations.map((one): [string, Promise<unknown>] => [one.id, startMigration(one, pace)]),
    ...work.drains.map(({ id, host, number }): [string, Promise<unknown>] => [
      id,
      startDetached(drainHost, workflowId.drain(host, number), [id, pace]),
    ]),
    ...work.reservations.map((id): [string, Promise<unknown>] => [
      id,
      startDetached(reserveHosts, workflowId.reservation(id), [id, pace]),
    ]),
    ...work.builds.map(({ id, name, digest }): [string, Promise<unknown>] => [
      id,
      startDetached(buildImage, workflowId.build(name, digest), [id, pace]),
    ]),
    ...work.hosts.map((id): [string, Promise<unknown>] => [id, startDetached(monitorHost, workflowId.host(id), [id, pace])]),
    ['planner', startDetached(planLeases, workflowId.planner(), [pace])],
  ];
  const started = await Promise.all(starts.map(async ([id, start]) => ((await start) === null ? [] : [id])));
  const interrupted = started.flat();
  if (interrupted.length > 0)
    progress.setDetail('work', `restarted at ${isoNow()}, without a workflow before: ${interrupted.join(', ')}`);
}

const startTask = (id: TaskId, pace: number) => startDetached(runTask, workflowId.task(id), [id, pace]);
