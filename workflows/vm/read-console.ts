import type { ConsolePage, ConsoleRange } from '../../model/console.ts';
import type { VmId } from '../../model/ids.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { failure, taskErrorOf } from '../durable/failure.ts';
import { Progress } from '../durable/progress.ts';

/** Reads a part of a VM's console at its current host. It fails when the host is unreachable: the caller retries. */
export async function readConsole(id: VmId, range: ConsoleRange, pace = 1): Promise<ConsolePage> {
  const { host, state, generation } = await onLedger(pace).loadVmLocation(id);
  if (host === null || state === 'pending' || state === 'removed')
    throw failure('conflict', `VM ${id} is ${state}: it has no console`);
  new Progress().setAttributes({ hosts: [host], vms: [id] });
  try {
    return await onHost(host, pace, 'throw').readConsole(id, generation, range);
  } catch (error) {
    const { code, message } = taskErrorOf(error);
    throw failure(code, message);
  }
}
