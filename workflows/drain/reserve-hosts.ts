import { CancellationScope, continueAsNew } from '@temporalio/workflow';
import { type HostDrain, isReservationOver, type ReservationId, type ReservationState } from '../../model/reservation.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { notify, notifyWaiters, startDetached } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { loadOrFail, RetryForever } from '../durable/retry-forever.ts';
import type { StepRow } from '../durable/step.ts';
import { timing } from '../durable/timeouts.ts';
import { WakeUp } from '../durable/wake-up.ts';
import { drainHost } from './drain-host.ts';

export const reservationSteps: readonly StepRow[] = [
  { name: 'hold', does: 'holds the hosts in the ledger, from the acceptance on', undoneBy: "the reservation's end" },
  {
    name: 'drain',
    does: 'starts a drainHost workflow for each host, in time for the start',
    undoneBy: 'cancelling the drain, which opens its host, and returns the VMs where requested',
  },
  {
    name: 'handOver',
    does: 'makes the reservation active, when all its hosts are empty (stepReservation)',
    undoneBy: "the reservation's end",
  },
  { name: 'giveBack', does: 'notifies the drains, which open the hosts; places what waits', undoneBy: 'nothing: it is the end' },
];

/**
 * A reservation of whole hosts, from its acceptance to its end. Each round executes what the ledger decides (see
 * reservationSteps). Cancelling this workflow ends the reservation.
 */
export async function reserveHosts(id: ReservationId, pace = 1): Promise<ReservationState> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  const wakeUp = new WakeUp(signalName.orderChanged);
  void root.cancelRequested.catch(() =>
    CancellationScope.nonCancellable(() => ledger.requestReservationCancel(id).then(wakeUp.wake, wakeUp.wake)),
  );
  return CancellationScope.nonCancellable(async () => {
    const progress = new Progress();
    const retry = new RetryForever(pace);
    const started = new Set<string>();
    const showRefusal = (error: unknown) =>
      progress.setDetail('refused', `**the ledger refuses the next round** since ${isoNow()}: ${taskErrorOf(error).message}`);
    for (;;) {
      wakeUp.reset();
      const step = await loadOrFail(retry, () => ledger.stepReservation(id), showRefusal);
      progress.setAttributes({ state: step.state, hosts: step.drains.map(({ host }) => host) });
      progress.setDetail('refused', null);
      progress.setDetail('step', step.summary);
      await notifyWaiters(step.notifications);
      for (const drain of step.drains) await startDrain(drain, pace, started, wakeUp.wake);
      for (const { host, number } of step.drainsToNotify) await notify(workflowId.drain(host, number), signalName.orderChanged);
      if (isReservationOver(step.state)) return step.state;
      if (isHistoryLong()) await continueAsNew<typeof reserveHosts>(id, pace);
      await wakeUp.wait(step.waitMs ?? timing(pace).drainPollMs);
    }
  });
}

/** Starts the drain of a host, unless it runs already: the run before this one, or housekeeping, may have started it. */
async function startDrain({ drain, host, number }: HostDrain, pace: number, started: Set<string>, wake: () => void) {
  if (started.has(drain)) return;
  started.add(drain);
  const workflow = workflowId.drain(host, number);
  const child = await startDetached(drainHost, workflow, [drain, pace]);
  // Its result is in the ledger.
  void child?.result().then(wake, wake);
}
