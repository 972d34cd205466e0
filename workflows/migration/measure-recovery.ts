import { log } from '@temporalio/workflow';
import type { Recovery } from '../../contracts/ledger.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { Progress } from '../durable/progress.ts';

/**
 * How long a VM takes after a move until it is as busy as before, for those who plan the next one. Nothing waits for this,
 * and nothing is undone: what could not be seen isn't noted.
 */
export async function measureRecovery({ migration, host, ...order }: Recovery, pace = 1): Promise<boolean> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [host], vms: [order.vmId] });
  progress.setDetail('step', `**recovers**: it kept ${order.busyCpus.toFixed(2)} processors busy before it moved`);
  try {
    if (!(await onHost(host, pace, 'throw').observeRecovery(order))) return false;
  } catch (error) {
    log.info('A recovery could not be seen', { vmId: order.vmId, error: taskErrorOf(error).message });
    return false;
  }
  await onLedger(pace).recordRecovery(migration);
  return true;
}
