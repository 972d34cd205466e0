import type { StreamOrder } from '../../contracts/stream.ts';
import type { VmId } from '../../model/ids.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { failure, taskErrorOf } from '../durable/failure.ts';
import { Progress } from '../durable/progress.ts';

/**
 * Has a VM's current host connect to the API process that holds a client of one of its sessions. It is tried once: that process
 * repeats it with another token, because the VM may have moved by then.
 */
export async function openStream(id: VmId, order: StreamOrder, pace = 1): Promise<void> {
  const { host, state, generation } = await onLedger(pace).loadVmLocation(id);
  // The client need not wait for one that is gone.
  if (state === 'removed') throw failure('not-found', `VM ${id} is removed`);
  if (host === null || state === 'pending') throw failure('conflict', `VM ${id} is ${state}: it does not run`);
  new Progress().setAttributes({ hosts: [host], vms: [id] });
  try {
    await onHost(host, pace, 'throw').openStream(id, generation, order);
  } catch (error) {
    const { code, message } = taskErrorOf(error);
    throw failure(code, message);
  }
}
