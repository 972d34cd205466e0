import { condition, continueAsNew, defineSignal, setHandler, workflowInfo } from '@temporalio/workflow';
import type { HostDifference } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { signalName } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';

const wakeUpSignal = defineSignal(signalName.wakeUp);

/**
 * Compares a host with the ledger, again and again. The ledger decides: what a host has too much is removed or put
 * aside, what it lacks is reported; a row is never changed to match a host.
 * @param suspects what was already out of place at the last look. A look is no snapshot of both sides at once, so only
 * what is out of place twice is believed.
 */
export async function reconcileHost(id: HostId, pace = 1, suspects: string[] = []): Promise<never> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [id] });
  let woken = false;
  setHandler(wakeUpSignal, () => {
    woken = true;
  });
  let last = suspects;
  do {
    woken = false;
    try {
      last = await reconcileOnce(id, pace, last, progress);
    } catch (error) {
      // Its own workflow watches over whether the host is there at all.
      progress.setDetail('look', `the look at ${isoNow()} was not finished: ${taskErrorOf(error).message}`);
    }
    await condition(() => woken, timing(pace).reconcileIntervalMs);
  } while (!workflowInfo().continueAsNewSuggested);
  return continueAsNew<typeof reconcileHost>(id, pace, last);
}

async function reconcileOnce(id: HostId, pace: number, last: string[], progress: Progress): Promise<string[]> {
  const found = await onHost(id, pace, 'throw').observeInventory();
  const difference = await onLedger(pace).compareHost(id, found);
  for (const { vmId, generation } of difference.leftovers) await removeLeftover(id, pace, vmId, generation);
  const suspects = [...difference.foreignDomains, ...difference.foreignDisks, ...difference.missing];
  const confirmed = new Set(suspects.filter((one) => last.includes(one)));
  for (const vmId of difference.foreignDisks) if (confirmed.has(vmId)) await onHost(id, pace, 'throw').quarantineVm(vmId);
  for (const vmId of difference.missing) if (confirmed.has(vmId)) await reportMissing(id, pace, vmId);
  progress.setDetail('look', summaryLine(id, difference));
  return suspects;
}

/** The same step by which its saga removes it. A newer generation on the host is somebody at work: not ours to end. */
async function removeLeftover(id: HostId, pace: number, vmId: VmId, generation: number): Promise<void> {
  try {
    await onHost(id, pace, 'throw').removeVm(vmId, generation);
  } catch (error) {
    if (codeOf(error) !== 'stale-generation') throw error;
  }
}

async function reportMissing(id: HostId, pace: number, vmId: VmId): Promise<void> {
  const message = `${vmId} should be alive on ${id}, and the hypervisor does not know it. Its disk, where there is one, was not touched`;
  await onLedger(pace).recordVmMissing(vmId, { code: 'vm-lost', message });
}

function summaryLine(id: HostId, { foreignDomains, foreignDisks, missing, leftovers }: HostDifference): string {
  const parts = [
    `leftovers ${leftovers.map(({ vmId }) => vmId).join(', ') || 'none'}`,
    `missing ${missing.join(', ') || 'none'}`,
    `foreign disks ${foreignDisks.join(', ') || 'none'}`,
    // A live domain of somebody else is for an operator: it is told here and nowhere touched.
    `foreign domains ${foreignDomains.join(', ') || 'none'}`,
  ];
  return `**${id}** at ${isoNow()}: ${parts.join('; ')}`;
}
