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
import type { DrainId } from '../model/drain.ts';
import type { HostId, TaskId, VmId } from '../model/ids.ts';
import type { ReservationId } from '../model/reservation.ts';
import { promptly, signalName, workflowId } from '../model/temporal.ts';
import { drainHost } from './drain-host.ts';
import { taskErrorOf } from './failure.ts';
import { keepImages } from './keep-images.ts';
import { onLedger } from './on-host.ts';
import { ownWay, unlessThere } from './own-way.ts';
import { now, Progress } from './progress.ts';
import { reserveHosts } from './reserve-hosts.ts';
import { runTask } from './run-task.ts';
import { runVm } from './run-vm.ts';
import { startMigration } from './start-migration.ts';
import { tell, tellPlaced } from './tell.ts';
import { waits } from './timeouts.ts';

const lookNowSignal = defineSignal(signalName.lookNow);

/**
 * What an API process that died has left undone: starts accepted tasks, cancels unwanted ones. Takes up tasks whose
 * workflow was ended from outside, places what waits though nobody was told of the room, and sweeps. The signal lookNow
 * begins a round at once.
 */
export async function keepHouse(pace = 1): Promise<never> {
  const progress = new Progress();
  const { housekeepingEvery, sweepEveryRounds } = waits(pace);
  const lookedAt: LookedAt = { after: null };
  let asked = false;
  setHandler(lookNowSignal, () => {
    asked = true;
  });
  for (let round = 0; !workflowInfo().continueAsNewSuggested; round += 1) {
    asked = false;
    try {
      await keep(pace, progress, lookedAt, round % sweepEveryRounds === 0);
      progress.say('failed', null);
    } catch (error) {
      // The next round tries again what this one could not: nothing of it is lost.
      progress.say('failed', `the round at ${now()} was not finished: ${taskErrorOf(error).message}`);
    }
    await condition(() => asked, housekeepingEvery);
  }
  return continueAsNew<typeof keepHouse>(pace);
}

/** The last of the tasks under way that were looked at: each round looks at those after it, then at the first again. */
interface LookedAt {
  after: TaskId | null;
}

async function keep(pace: number, progress: Progress, lookedAt: LookedAt, sweeping: boolean): Promise<void> {
  const ledger = onLedger(pace);
  const { lostAfterS } = waits(pace);
  const lost = await ledger.tasksWithoutWorkflow(lostAfterS);
  await Promise.all(lost.map((id) => startTask(id, pace)));
  if (lost.length > 0) progress.say('lost', `started ${lost.length} tasks at ${now()}: ${lost.slice(0, 10).join(', ')}`);
  await Promise.all((await ledger.migrationsWithoutWorkflow(lostAfterS)).map((one) => startMigration(one, pace)));
  await Promise.all((await ledger.drainsWithoutWorkflow(lostAfterS)).map((one) => startDrain(one, pace)));
  await Promise.all((await ledger.reservationsWithoutWorkflow(lostAfterS)).map((id) => startReservation(id, pace)));
  await Promise.all((await ledger.vmsToTell(lostAfterS)).map(({ id }) => takeUpVm(id, pace)));
  const unheard = await ledger.tasksToCancel(lostAfterS);
  await Promise.all(unheard.map(cancelTask));
  await keepImages(pace, ledger);
  const page = await ledger.tasksUnderWay(lookedAt.after);
  lookedAt.after = page.at(-1) ?? null;
  const interrupted = (await Promise.all(page.map(async (id) => ((await startTask(id, pace)) ? [id] : [])))).flat();
  if (interrupted.length > 0) progress.say('interrupted', `took up at ${now()}, without workflow: ${interrupted.join(', ')}`);
  // To free nothing is to place what fits by now: a host that takes tasks again tells nobody else.
  await tellPlaced(await ledger.releaseVms([]));
  if (sweeping) progress.say('sweep', `swept ${await ledger.sweep()} rows at ${now()}`);
}

/** @returns whether there was none. */
async function startTask(id: TaskId, pace: number): Promise<boolean> {
  const options = { ...ownWay, workflowId: workflowId.task(id) };
  return (await unlessThere(startChild(runTask, { ...options, args: [id, pace] }))) !== null;
}

async function startReservation(id: ReservationId, pace: number): Promise<void> {
  const options = { ...ownWay, ...promptly, workflowId: workflowId.reservation(id) };
  await unlessThere(startChild(reserveHosts, { ...options, args: [id, pace] }));
}

async function startDrain({ id, host, number }: { id: DrainId; host: HostId; number: number }, pace: number): Promise<void> {
  const options = { ...ownWay, ...promptly, workflowId: workflowId.drain(host, number) };
  await unlessThere(startChild(drainHost, { ...options, args: [id, pace] }));
}

/** Starts the workflow of a VM that stands alone, or repeats to it that something is wanted. */
async function takeUpVm(id: VmId, pace: number): Promise<void> {
  const options = { ...ownWay, ...promptly, workflowId: workflowId.vm(id) };
  const started = await unlessThere(startChild(runVm, { ...options, args: [id, pace] }));
  if (started === null) await tell(options.workflowId, signalName.asked);
}

async function cancelTask(id: TaskId): Promise<void> {
  try {
    await getExternalWorkflowHandle(workflowId.task(id)).cancel();
  } catch (error) {
    // It has ended meanwhile; the next round would see otherwise.
    log.info('A task could not be cancelled', { taskId: id, error: String(error) });
  }
}
