import {
  CancellationScope,
  condition,
  continueAsNew,
  defineSignal,
  setHandler,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import { type HostDrain, isReservationOver, type ReservationId, type ReservationState } from '../../model/reservation.ts';
import { shortWorkflowTaskTimeout, signalName, workflowId } from '../../model/temporal.ts';
import { onLedger } from '../durable/activity-proxies.ts';
import { detachedChild, startIfAbsent } from '../durable/detached-child.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { notify, notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { RetryForever } from '../durable/retry-forever.ts';
import { timing } from '../durable/timeouts.ts';
import { drainHost } from './drain-host.ts';

const orderChangedSignal = defineSignal(signalName.orderChanged);

/**
 * A reservation of whole hosts, from its acceptance to its end. Its hosts are held by the ledger; here they are closed
 * and emptied just in time, each by a drain of its own, handed over, and given back.
 *
 *   what                          undone by
 *   hosts held                    the reservation's end, either way
 *   a drain for each host         calling it off: it opens its host, and brings the VMs back if that was asked for
 *
 * Cancelling this workflow ends the reservation.
 */
export async function reserveHosts(id: ReservationId, pace = 1): Promise<ReservationState> {
  const root = CancellationScope.current();
  const ledger = onLedger(pace);
  let woken = false;
  const wake = () => {
    woken = true;
  };
  setHandler(orderChangedSignal, wake);
  void root.cancelRequested.catch(() =>
    CancellationScope.nonCancellable(() => ledger.requestReservationCancel(id).then(wake, wake)),
  );
  return CancellationScope.nonCancellable(async () => {
    const progress = new Progress();
    const retry = new RetryForever(pace);
    const started = new Set<string>();
    for (;;) {
      woken = false;
      const step = await retry.run(
        () => ledger.stepReservation(id),
        (error) => {
          if (codeOf(error) === 'not-found') throw error;
          progress.setDetail('refused', `**the ledger refuses to go on** since ${isoNow()}: ${taskErrorOf(error).message}`);
        },
      );
      progress.setAttributes({ state: step.state, hosts: step.drains.map(({ host }) => host) });
      progress.setDetail('refused', null);
      progress.setDetail('step', step.summary);
      await notifyWaiters(step.notifications);
      for (const drain of step.drains) await startDrain(drain, pace, started, wake);
      for (const { host, number } of step.drainsToNotify) await notify(workflowId.drain(host, number), signalName.orderChanged);
      if (isReservationOver(step.state)) return step.state;
      if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof reserveHosts>(id, pace);
      await condition(() => woken, step.waitMs ?? timing(pace).drainPollMs);
    }
  });
}

/** Starts the drain of a host, or finds it started: by the run before this one, or by the housekeeper. */
async function startDrain({ drain, host, number }: HostDrain, pace: number, started: Set<string>, wake: () => void) {
  if (started.has(drain)) return;
  started.add(drain);
  const workflow = workflowId.drain(host, number);
  const child = await startIfAbsent(
    startChild(drainHost, { ...detachedChild, ...shortWorkflowTaskTimeout, workflowId: workflow, args: [drain, pace] }),
  );
  // How it ended is in the ledger.
  void child?.result().then(wake, wake);
}
