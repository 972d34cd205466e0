import type { Client } from '@temporalio/client';
import type { HostId, VmId } from '../model/ids.ts';
import type { Logger } from '../model/log.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../model/temporal.ts';
import { retryForever } from './retry-forever.ts';

/** In one signal: a few kilobytes. */
const vmsPerSignal = 100;

/** Has the site look at these VMs' domains; returns when Temporal has accepted it. */
export async function reportDomains(client: Client, hostId: HostId, vmIds: VmId[], log: Logger, pace = 1): Promise<void> {
  for (let from = 0; from < vmIds.length; from += vmsPerSignal) {
    const some = vmIds.slice(from, from + vmsPerSignal);
    await retryForever('reporting domains', log, () =>
      client.workflow.signalWithStart(workflowType.domains, {
        workflowId: workflowId.domains(hostId),
        taskQueue: controlQueue,
        args: [hostId, pace],
        signal: signalName.domainsChanged,
        signalArgs: [some],
      }),
    );
  }
  log.info({ vmIds }, 'reported that domains have changed');
}
