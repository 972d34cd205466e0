import type { Client } from '@temporalio/client';
import type { HostId } from '../../model/ids.ts';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import type { Logger } from '../../model/log.ts';
import { controlQueue, signalName, workflowId, workflowTaskTimeoutOf, workflowType } from '../../model/temporal.ts';

/** Asks for help; a request that is lost is made again by the watchdog, as long as the stress lasts. */
export async function reportHelp(client: Client, hostId: HostId, verdict: WatchVerdict, log: Logger, pace = 1): Promise<void> {
  try {
    await client.workflow.signalWithStart(workflowType.help, {
      workflowId: workflowId.help(hostId),
      taskQueue: controlQueue,
      ...workflowTaskTimeoutOf(workflowType.help),
      args: [hostId, pace],
      signal: signalName.helpRequested,
      signalArgs: [verdict],
    });
    log.info({ verdict }, 'the host is overloaded, and asks for help');
  } catch (error) {
    log.warn({ err: error }, 'help could not be asked for; it is asked for again while the host is overloaded');
  }
}
