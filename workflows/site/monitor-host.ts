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
import type { HostFacts } from '../../model/host.ts';
import type { HostId } from '../../model/ids.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { detachedChild, startIfAbsent } from '../durable/detached-child.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { notify, notifyWaiters } from '../durable/notify.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';
import { reconcileHost } from './reconcile-host.ts';

const hostRegisteredSignal = defineSignal<[HostFacts]>(signalName.hostRegistered);

/**
 * One host, for as long as the site knows it: it arrives (its worker's signal, or its answer after a silence), is
 * present (an activity that lasts as long as its worker), falls silent, and comes back. A silent host gets no new
 * work, and nothing of it is touched.
 */
export async function monitorHost(id: HostId, pace = 1): Promise<never> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [id] });
  const registrations: HostFacts[] = [];
  setHandler(hostRegisteredSignal, (facts) => {
    registrations.push(facts);
  });
  let liveness: Promise<void> | null = null;
  while (registrations.length > 0 || !workflowInfo().continueAsNewSuggested) {
    const facts = registrations.splice(0).at(-1);
    if (facts !== undefined) await register(facts, progress, pace);
    liveness ??= waitForWorkerExit(id, pace, progress).finally(() => {
      liveness = null;
    });
    await condition(() => registrations.length > 0 || liveness === null);
    // It has gone, or only its worker was restarted: ask before anybody is told.
    if (registrations.length === 0) await probe(id, pace, registrations, progress);
  }
  return continueAsNew<typeof monitorHost>(id, pace);
}

async function register(facts: HostFacts, progress: Progress, pace: number): Promise<void> {
  try {
    await notifyWaiters(await onLedger(pace).registerHost(facts));
  } catch (error) {
    // Such as an address that another host has: for its operator to put right, and to start its worker again.
    progress.setAttributes({ state: 'refused' });
    return progress.setDetail('host', `**the ledger refuses ${facts.hostId}** since ${isoNow()}: ${taskErrorOf(error).message}`);
  }
  progress.setAttributes({ state: 'up' });
  progress.setDetail('host', `**${facts.hostId}** is up since ${isoNow()}: ${facts.hypervisor}, ${facts.accelerator}`);
  await startReconciliation(facts.hostId, pace);
}

/** The host's reconciliation runs on its own; here it is started, or told that there is something to see. */
async function startReconciliation(id: HostId, pace: number): Promise<void> {
  const workflow = workflowId.reconcile(id);
  const started = await startIfAbsent(startChild(reconcileHost, { ...detachedChild, workflowId: workflow, args: [id, pace] }));
  if (started === null) await notify(workflow, signalName.wakeUp);
}

/** Ends when the worker has gone, however it went: that is all that its failure says. */
async function waitForWorkerExit(id: HostId, pace: number, progress: Progress): Promise<void> {
  try {
    await onHost(id, pace, 'throw').reportLiveness();
  } catch (error) {
    progress.setDetail('presence', `last seen until ${isoNow()}: ${taskErrorOf(error).message}`);
  }
}

/** Asks a host for its facts: once with a limit, then, with the host marked silent, until it answers or arrives. */
async function probe(id: HostId, pace: number, registrations: HostFacts[], progress: Progress): Promise<void> {
  const answer = async (host: ReturnType<typeof onHost>): Promise<void> => {
    registrations.push(await host.observeHost());
  };
  try {
    return await answer(onHost(id, pace, 'throw'));
  } catch (error) {
    progress.setDetail('host', `**${id} does not answer** since ${isoNow()}: ${taskErrorOf(error).message}`);
  }
  await markUnreachable(id, pace);
  progress.setAttributes({ state: 'unknown' });
  const asking = new CancellationScope();
  const asked = asking
    .run(() => answer(onHost(id, pace, { wait: () => undefined })))
    .catch(() => (asking.consideredCancelled ? undefined : sleep(timing(pace).unreachableAfterMs)));
  await Promise.race([asked, condition(() => registrations.length > 0)]);
  asking.cancel();
}

async function markUnreachable(id: HostId, pace: number): Promise<void> {
  try {
    await onLedger(pace).markHostUnreachable(id);
  } catch (error) {
    // Refused when it came: it has no row that could say so.
    if (codeOf(error) !== 'not-found') throw error;
  }
}
