import {
  CancellationScope,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  patched,
  setHandler,
  sleep,
} from '@temporalio/workflow';
import type { HostFacts } from '../../model/host.ts';
import type { HostId } from '../../model/ids.ts';
import { type RegistrationAnswer, registrationQuery, signalName, workflowId } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { notifyWaiters, startOrNotify } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { livenessTimeout, timing } from '../durable/timeouts.ts';
import { reconcileHost } from './reconcile-host.ts';

const hostRegisteredSignal = defineSignal<[HostFacts]>(signalName.hostRegistered);

/**
 * Follows one host, for as long as the site knows it: it registers (a signal of its worker, or its answer after it was
 * unreachable), is live (an activity that lasts as long as its worker), becomes unreachable, and registers again. An
 * unreachable host gets no new work, and its VMs are not changed.
 * @param registration one that the run before this one has received
 */
export async function monitorHost(id: HostId, pace = 1, registration?: HostFacts): Promise<never> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [id] });
  const registrations: HostFacts[] = registration === undefined ? [] : [registration];
  // The machines that have registered are few: a host has one, and a second by mistake.
  const answers = new Map<string, RegistrationAnswer>();
  setHandler(hostRegisteredSignal, (facts) => {
    // An earlier answer to this machine says nothing of this registration.
    answers.delete(facts.machine ?? '');
    registrations.push(facts);
  });
  setHandler(defineQuery<RegistrationAnswer, [string]>(registrationQuery), (machine) => answers.get(machine) ?? null);
  let liveness: Promise<void> | null = null;
  let machines: number | undefined;
  // A host whose worker is restarted again and again, or that answers each probe, always has registered by here.
  while (!isHistoryLong() || (registrations.length > 0 && !patched('host-registration'))) {
    const facts = registrations.splice(0).at(-1);
    if (facts !== undefined) {
      machines = facts.siteMachines;
      answers.set(facts.machine ?? '', await register(facts, progress, pace));
    }
    liveness ??= waitForWorkerExit(id, pace, progress, machines).finally(() => {
      liveness = null;
    });
    await condition(() => registrations.length > 0 || liveness === null);
    // The host is unreachable, or only its worker was restarted: probe it first.
    if (registrations.length === 0) await probe(id, pace, registrations, progress);
  }
  return continueAsNew<typeof monitorHost>(id, pace, registrations.at(-1));
}

async function register(facts: HostFacts, progress: Progress, pace: number): Promise<RegistrationAnswer> {
  try {
    await notifyWaiters(await onLedger(pace).registerHost(facts));
  } catch (error) {
    // Such as an address that another host has: its operator has to correct it. Its worker takes no steps, and asks again.
    const why = taskErrorOf(error).message;
    progress.setAttributes({ state: 'refused' });
    progress.setDetail('host', `**the ledger refuses ${facts.hostId}** since ${isoNow()}: ${why}`);
    return { admitted: false, why };
  }
  progress.setAttributes({ state: 'up' });
  progress.setDetail('host', `**${facts.hostId}** is up since ${isoNow()}: ${facts.hypervisor}, ${facts.accelerator}`);
  await startOrNotify(reconcileHost, workflowId.reconcile(facts.hostId), [facts.hostId, pace], signalName.wakeUp);
  return { admitted: true };
}

/** Returns when the worker has ended. The activity's failure says nothing more. */
async function waitForWorkerExit(id: HostId, pace: number, progress: Progress, machines: number | undefined): Promise<void> {
  try {
    await onHost(id, pace, 'throw', livenessTimeout(machines, pace)).reportLiveness();
  } catch (error) {
    progress.setDetail('liveness', `live until ${isoNow()}: ${taskErrorOf(error).message}`);
  }
}

/** Requests a host's facts: once with a timeout, then, with the host marked unreachable, until it answers or registers. */
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
  const probing = new CancellationScope();
  const answered = probing
    .run(() => answer(onHost(id, pace, { wait: () => undefined })))
    .catch(() => (probing.consideredCancelled ? undefined : sleep(timing(pace).unreachableAfterMs)));
  await Promise.race([answered, condition(() => registrations.length > 0)]);
  probing.cancel();
}

async function markUnreachable(id: HostId, pace: number): Promise<void> {
  try {
    await onLedger(pace).markHostUnreachable(id);
  } catch (error) {
    // Its registration was refused: it has no row.
    if (codeOf(error) !== 'not-found') throw error;
  }
}
