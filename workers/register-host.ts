import { setTimeout as delay } from 'node:timers/promises';
import type { Client } from '@temporalio/client';
import type { HostFacts } from '../model/host.ts';
import type { HostId } from '../model/ids.ts';
import type { Logger } from '../model/log.ts';
import {
  controlQueue,
  type RegistrationAnswer,
  registrationQuery,
  signalName,
  workflowId,
  workflowType,
} from '../model/temporal.ts';
import { retryForever } from './retry-forever.ts';

const pollMs = 200;
/** A signal is answered within a second or two; after this it is sent again. */
const answerWithinMs = 15_000;
/** Between two registrations of a machine that was refused. */
const refusedPauseMs = 15_000;

interface Registration {
  client: Client;
  hostId: HostId;
  observe: () => Promise<HostFacts>;
  log: Logger;
  /** Scales the waits; 1 at a site. */
  pace?: number;
}

/** Registers this machine until it is admitted. Before that its worker must take no step. */
export async function registerHost(registration: Registration): Promise<void> {
  const { log, pace = 1 } = registration;
  for (;;) {
    const answer = await retryForever('registering the host', log, () => registerOnce(registration));
    if (answer?.admitted === true) return;
    if (answer === null) continue;
    log.error(`the site refuses this machine: ${answer.why}`);
    await delay(refusedPauseMs * pace);
  }
}

async function registerOnce({ client, hostId, observe, log, pace = 1 }: Registration): Promise<RegistrationAnswer> {
  const facts = await observe();
  const handle = await client.workflow.signalWithStart(workflowType.host, {
    workflowId: workflowId.host(hostId),
    taskQueue: controlQueue,
    args: [hostId],
    signal: signalName.hostRegistered,
    signalArgs: [facts],
  });
  const current = client.workflow.getHandle(handle.workflowId);
  for (const untilMs = Date.now() + answerWithinMs * pace; Date.now() < untilMs; await delay(pollMs * pace)) {
    const answer = await current.query<RegistrationAnswer, [string]>(registrationQuery, facts.machine ?? '');
    if (answer === null) continue;
    if (answer.admitted) log.info({ facts }, 'registered the host');
    return answer;
  }
  return null;
}
