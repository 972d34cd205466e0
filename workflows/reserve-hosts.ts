import {
  CancellationScope,
  condition,
  continueAsNew,
  defineSignal,
  setHandler,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import { type HostDrain, isReservationOver, type ReservationId, type ReservationState } from '../model/reservation.ts';
import { promptly, signalName, workflowId } from '../model/temporal.ts';
import { drainHost } from './drain-host.ts';
import { codeOf, taskErrorOf } from './failure.ts';
import { Insistence } from './insistence.ts';
import { onLedger } from './on-host.ts';
import { ownWay, unlessThere } from './own-way.ts';
import { now, Progress } from './progress.ts';
import { tell, tellPlaced } from './tell.ts';
import { waits } from './timeouts.ts';

const changedSignal = defineSignal(signalName.changed);

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
  let changed = false;
  const wake = () => {
    changed = true;
  };
  setHandler(changedSignal, wake);
  void root.cancelRequested.catch(() =>
    CancellationScope.nonCancellable(() => ledger.requestReservationEnd(id).then(wake, wake)),
  );
  return CancellationScope.nonCancellable(async () => {
    const progress = new Progress();
    const insistence = new Insistence(pace);
    const followed = new Set<string>();
    for (;;) {
      changed = false;
      const step = await insistence.on(
        () => ledger.stepReservation(id),
        (error) => {
          if (codeOf(error) === 'not-found') throw error;
          progress.say('refused', `**the ledger refuses to go on** since ${now()}: ${taskErrorOf(error).message}`);
        },
      );
      progress.mark({ state: step.state, hosts: step.drains.map(({ host }) => host) });
      progress.say('refused', null);
      progress.say('step', step.says);
      await tellPlaced(step.wake);
      for (const drain of step.drains) await follow(drain, pace, followed, wake);
      for (const { host, number } of step.tell) await tell(workflowId.drain(host, number), signalName.changed);
      if (isReservationOver(step.state)) return step.state;
      if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof reserveHosts>(id, pace);
      await condition(() => changed, step.waitMs ?? waits(pace).drainLook);
    }
  });
}

/** Starts the drain of a host, or finds it started: by the run before this one, or by the housekeeper. */
async function follow({ drain, host, number }: HostDrain, pace: number, followed: Set<string>, wake: () => void) {
  if (followed.has(drain)) return;
  followed.add(drain);
  const workflow = workflowId.drain(host, number);
  const child = await unlessThere(startChild(drainHost, { ...ownWay, ...promptly, workflowId: workflow, args: [drain, pace] }));
  // How it ended is in the ledger.
  void child?.result().then(wake, wake);
}
