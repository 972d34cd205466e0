import { log } from '@temporalio/workflow';
import type { Recovery } from '../../contracts/ledger.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { Progress } from '../durable/progress.ts';

/**
 * Measures how long a VM takes after a migration until it is as busy as before; the drain's planner predicts with it. No
 * other workflow waits for this, and there is nothing to undo: a failed observation is not recorded.
 */
export async function measureRecovery({ migration, host, ...order }: Recovery, pace = 1): Promise<boolean> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [host], vms: [order.vmId] });
  progress.setDetail('step', `**recovers**: it kept ${order.busyCpus.toFixed(2)} processors busy before its migration`);
  try {
    if (!(await onHost(host, pace, 'throw').observeRecovery(order))) return false;
  } catch (error) {
    log.info('A recovery could not be observed', { vmId: order.vmId, error: taskErrorOf(error).message });
    return false;
  }
  await onLedger(pace).recordRecovery(migration);
  return true;
}
