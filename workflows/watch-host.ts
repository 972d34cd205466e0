import {
  CancellationScope,
  condition,
  continueAsNew,
  defineSignal,
  setHandler,
  sleep,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import type { HostFacts } from '../model/host.ts';
import type { HostId } from '../model/ids.ts';
import { signalName, workflowId } from '../model/temporal.ts';
import { codeOf, taskErrorOf } from './failure.ts';
import { onHost, onLedger } from './on-host.ts';
import { ownWay, unlessThere } from './own-way.ts';
import { now, Progress } from './progress.ts';
import { reconcileHost } from './reconcile-host.ts';
import { tell, tellPlaced } from './tell.ts';
import { waits } from './timeouts.ts';

const arrivedSignal = defineSignal<[HostFacts]>(signalName.arrived);

/**
 * One host, for as long as the site knows it: it arrives (its worker's signal, or its answer after a silence), is
 * present (an activity that lasts as long as its worker), falls silent, and comes back. A silent host gets no new
 * work, and nothing of it is touched.
 */
export async function watchHost(id: HostId, pace = 1): Promise<never> {
  const progress = new Progress();
  progress.mark({ hosts: [id] });
  const arrivals: HostFacts[] = [];
  setHandler(arrivedSignal, (facts) => {
    arrivals.push(facts);
  });
  let presence: Promise<void> | null = null;
  while (arrivals.length > 0 || !workflowInfo().continueAsNewSuggested) {
    const facts = arrivals.splice(0).at(-1);
    if (facts !== undefined) await welcome(facts, progress, pace);
    presence ??= present(id, pace, progress).finally(() => {
      presence = null;
    });
    await condition(() => arrivals.length > 0 || presence === null);
    // It has gone, or only its worker was restarted: ask before anybody is told.
    if (arrivals.length === 0) await seek(id, pace, arrivals, progress);
  }
  return continueAsNew<typeof watchHost>(id, pace);
}

async function welcome(facts: HostFacts, progress: Progress, pace: number): Promise<void> {
  try {
    await tellPlaced(await onLedger(pace).hostArrived(facts));
  } catch (error) {
    // Such as an address that another host has: for its operator to put right, and to start its worker again.
    progress.mark({ state: 'refused' });
    return progress.say('host', `**the ledger refuses ${facts.hostId}** since ${now()}: ${taskErrorOf(error).message}`);
  }
  progress.mark({ state: 'up' });
  progress.say('host', `**${facts.hostId}** is up since ${now()}: ${facts.hypervisor}, ${facts.accelerator}`);
  await reconcile(facts.hostId, pace);
}

/** The host's reconciliation runs on its own; here it is started, or told that there is something to see. */
async function reconcile(id: HostId, pace: number): Promise<void> {
  const workflow = workflowId.reconcile(id);
  const started = await unlessThere(startChild(reconcileHost, { ...ownWay, workflowId: workflow, args: [id, pace] }));
  if (started === null) await tell(workflow, signalName.lookNow);
}

/** Ends when the worker has gone, however it went: that is all that its failure says. */
async function present(id: HostId, pace: number, progress: Progress): Promise<void> {
  try {
    await onHost(id, pace, 'throw').presence();
  } catch (error) {
    progress.say('presence', `last seen until ${now()}: ${taskErrorOf(error).message}`);
  }
}

/** Asks a host for its facts: once with a limit, then, with the host marked silent, until it answers or arrives. */
async function seek(id: HostId, pace: number, arrivals: HostFacts[], progress: Progress): Promise<void> {
  const answer = async (host: ReturnType<typeof onHost>): Promise<void> => {
    arrivals.push(await host.observeHost());
  };
  try {
    return await answer(onHost(id, pace, 'throw'));
  } catch (error) {
    progress.say('host', `**${id} does not answer** since ${now()}: ${taskErrorOf(error).message}`);
  }
  await markSilent(id, pace);
  progress.mark({ state: 'unknown' });
  const asking = new CancellationScope();
  const asked = asking
    .run(() => answer(onHost(id, pace, { wait: () => undefined })))
    .catch(() => (asking.consideredCancelled ? undefined : sleep(waits(pace).silentAfter)));
  await Promise.race([asked, condition(() => arrivals.length > 0)]);
  asking.cancel();
}

async function markSilent(id: HostId, pace: number): Promise<void> {
  try {
    await onLedger(pace).hostSilent(id);
  } catch (error) {
    // Refused when it came: it has no row that could say so.
    if (codeOf(error) !== 'not-found') throw error;
  }
}
