import {
  condition,
  continueAsNew,
  defineSignal,
  getExternalWorkflowHandle,
  log,
  setHandler,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import type { DrainId } from '../../model/drain.ts';
import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import type { ReservationId } from '../../model/reservation.ts';
import { shortWorkflowTaskTimeout, signalName, workflowId } from '../../model/temporal.ts';
import { drainHost } from '../drain/drain-host.ts';
import { reserveHosts } from '../drain/reserve-hosts.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { detachedChild, startIfAbsent } from '../durable/detached-child.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { notify, notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';
import { runImageHousekeeping } from '../image/image-housekeeping.ts';
import { startMigration } from '../migration/start-migration.ts';
import { runTask } from '../task/run-task.ts';
import { runVm } from '../vm/run-vm.ts';

const wakeUpSignal = defineSignal(signalName.wakeUp);

/**
 * What an API process that died has left undone: starts accepted tasks, cancels unwanted ones. Takes up tasks whose
 * workflow was ended from outside, places what waits though nobody was told of the room, and sweeps. The signal lookNow
 * begins a round at once.
 */
export async function runHousekeeping(pace = 1): Promise<never> {
  const progress = new Progress();
  const { housekeepingIntervalMs: housekeepingEvery, sweepEveryRounds } = timing(pace);
  const cursor: Cursor = { after: null };
  let woken = false;
  setHandler(wakeUpSignal, () => {
    woken = true;
  });
  for (let round = 0; !workflowInfo().continueAsNewSuggested; round += 1) {
    woken = false;
    try {
      await runRound(pace, progress, cursor, round % sweepEveryRounds === 0);
      progress.setDetail('failed', null);
    } catch (error) {
      // The next round tries again what this one could not: nothing of it is lost.
      progress.setDetail('failed', `the round at ${isoNow()} was not finished: ${taskErrorOf(error).message}`);
    }
    await condition(() => woken, housekeepingEvery);
  }
  return continueAsNew<typeof runHousekeeping>(pace);
}

/** The last of the tasks under way that were looked at: each round looks at those after it, then at the first again. */
interface Cursor {
  after: TaskId | null;
}

async function runRound(pace: number, progress: Progress, cursor: Cursor, sweeping: boolean): Promise<void> {
  const ledger = onLedger(pace);
  const { orphanedAfterS: lostAfterS } = timing(pace);
  const lost = await ledger.listTasksWithoutWorkflow(lostAfterS);
  await Promise.all(lost.map((id) => startTask(id, pace)));
  if (lost.length > 0) progress.setDetail('lost', `started ${lost.length} tasks at ${isoNow()}: ${lost.slice(0, 10).join(', ')}`);
  await Promise.all((await ledger.listMigrationsWithoutWorkflow(lostAfterS)).map((one) => startMigration(one, pace)));
  await Promise.all((await ledger.listDrainsWithoutWorkflow(lostAfterS)).map((one) => startDrain(one, pace)));
  await Promise.all((await ledger.listReservationsWithoutWorkflow(lostAfterS)).map((id) => startReservation(id, pace)));
  await Promise.all((await ledger.listVmsToNotify(lostAfterS)).map(({ id }) => startOrNotifyVm(id, pace)));
  const toCancel = await ledger.listTasksToCancel(lostAfterS);
  await Promise.all(toCancel.map(cancelTask));
  await runImageHousekeeping(pace, ledger);
  const page = await ledger.listActiveTasks(cursor.after);
  cursor.after = page.at(-1) ?? null;
  const interrupted = (await Promise.all(page.map(async (id) => ((await startTask(id, pace)) ? [id] : [])))).flat();
  if (interrupted.length > 0)
    progress.setDetail('interrupted', `took up at ${isoNow()}, without workflow: ${interrupted.join(', ')}`);
  // To free nothing is to place what fits by now: a host that takes tasks again tells nobody else.
  await notifyWaiters(await ledger.releaseVms([]));
  if (sweeping) progress.setDetail('sweep', `swept ${await ledger.sweepExpiredRows()} rows at ${isoNow()}`);
}

/** @returns whether there was none. */
async function startTask(id: TaskId, pace: number): Promise<boolean> {
  const options = { ...detachedChild, workflowId: workflowId.task(id) };
  return (await startIfAbsent(startChild(runTask, { ...options, args: [id, pace] }))) !== null;
}

async function startReservation(id: ReservationId, pace: number): Promise<void> {
  const options = { ...detachedChild, ...shortWorkflowTaskTimeout, workflowId: workflowId.reservation(id) };
  await startIfAbsent(startChild(reserveHosts, { ...options, args: [id, pace] }));
}

async function startDrain({ id, host, number }: { id: DrainId; host: HostId; number: number }, pace: number): Promise<void> {
  const options = { ...detachedChild, ...shortWorkflowTaskTimeout, workflowId: workflowId.drain(host, number) };
  await startIfAbsent(startChild(drainHost, { ...options, args: [id, pace] }));
}

/** Starts the workflow of a VM that stands alone, or repeats to it that something is wanted. */
async function startOrNotifyVm(id: VmId, pace: number): Promise<void> {
  const options = { ...detachedChild, ...shortWorkflowTaskTimeout, workflowId: workflowId.vm(id) };
  const started = await startIfAbsent(startChild(runVm, { ...options, args: [id, pace] }));
  if (started === null) await notify(options.workflowId, signalName.operationRequested);
}

async function cancelTask(id: TaskId): Promise<void> {
  try {
    await getExternalWorkflowHandle(workflowId.task(id)).cancel();
  } catch (error) {
    // It has ended meanwhile; the next round would see otherwise.
    log.info('A task could not be cancelled', { taskId: id, error: String(error) });
  }
}
