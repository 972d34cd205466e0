import { continueAsNew, patched } from '@temporalio/workflow';
import type { HostDifference } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { signalName } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { withTimeout } from '../durable/cancellation-scopes.ts';
import { codeOf, failure, taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';
import { WakeUp } from '../durable/wake-up.ts';

/**
 * Compares a host with the ledger at intervals. The ledger decides: what the host has in excess is removed or quarantined,
 * what it lacks is reported; a row is never changed to match a host.
 * @param suspects differences of the last round. A round is no snapshot of both sides at one time, so a difference takes
 * effect only when it is found twice.
 */
export async function reconcileHost(id: HostId, pace = 1, suspects: string[] = []): Promise<never> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [id] });
  const wakeUp = new WakeUp(signalName.wakeUp);
  let last = suspects;
  do {
    wakeUp.reset();
    try {
      last = await reconcileOnce(id, pace, last, progress);
    } catch (error) {
      // monitorHost handles an unreachable host.
      progress.setDetail('round', `the round at ${isoNow()} failed: ${taskErrorOf(error).message}`);
    }
    await wakeUp.wait(timing(pace).reconcileIntervalMs);
  } while (!isHistoryLong());
  return continueAsNew<typeof reconcileHost>(id, pace, last);
}

async function reconcileOnce(id: HostId, pace: number, last: string[], progress: Progress): Promise<string[]> {
  // Rounds of before did not compare the clocks.
  const askedAt = patched('host-clock') ? await onLedger(pace).readClock() : undefined;
  const found = await onHost(id, pace, 'throw').observeInventory();
  const difference = await onLedger(pace).compareHost(id, found, askedAt);
  const host = onHost(id, pace, 'throw');
  for (const { vmId, generation } of difference.leftovers) await unlessNewer(host.removeVm(vmId, generation));
  for (const { vmId, generation } of difference.departed ?? []) await unlessNewer(host.removeLeftover(vmId, generation, true));
  for (const fenced of difference.fenced ?? []) await removeFenced(id, pace, fenced, progress);
  const suspects = [...difference.foreignDomains, ...difference.foreignDisks, ...difference.missing];
  const confirmed = new Set(suspects.filter((one) => last.includes(one)));
  for (const vmId of difference.foreignDisks) if (confirmed.has(vmId)) await onHost(id, pace, 'throw').quarantineVm(vmId);
  for (const vmId of difference.missing) if (confirmed.has(vmId)) await reportMissing(id, pace, vmId);
  progress.setDetail('round', summaryLine(id, difference));
  return suspects;
}

/** A newer generation on the host belongs to a saga at work, and is left to it. */
async function unlessNewer(removed: Promise<unknown>): Promise<void> {
  try {
    await removed;
  } catch (error) {
    if (codeOf(error) !== 'stale-generation') throw error;
  }
}

/**
 * Removes what an operator has ended, and confirms that to the ledger, which frees what it took here. What refuses stays fenced
 * until the next round.
 */
async function removeFenced(
  id: HostId,
  pace: number,
  { vmId, generation, keepsDisks }: NonNullable<HostDifference['fenced']>[number],
  progress: Progress,
): Promise<void> {
  const host = onHost(id, pace, 'throw');
  const ms = timing(pace).cleanupTimeoutMs;
  const expired = () => failure('host-busy', `it could not be removed within ${ms / 1000} s`);
  try {
    // A removal is repeated without limit, and this round has others to do.
    await withTimeout(ms, expired, () => (keepsDisks ? host.removeDomain(vmId, generation) : host.removeVm(vmId, generation)));
    await notifyWaiters(await onLedger(pace).liftFence(id, vmId));
    progress.setDetail(`fenced ${vmId}`, null);
  } catch (error) {
    progress.setDetail(
      `fenced ${vmId}`,
      `**${vmId} is fenced**, and could not be removed at ${isoNow()}: ${taskErrorOf(error).message}`,
    );
  }
}

async function reportMissing(id: HostId, pace: number, vmId: VmId): Promise<void> {
  const message = `${vmId} should run on ${id}, and the hypervisor does not have it. Its disk, where there is one, was not changed`;
  await onLedger(pace).recordVmMissing(vmId, { code: 'vm-lost', message });
}

function summaryLine(id: HostId, { foreignDomains, foreignDisks, missing, leftovers }: HostDifference): string {
  const parts = [
    `leftovers ${leftovers.map(({ vmId }) => vmId).join(', ') || 'none'}`,
    `missing ${missing.join(', ') || 'none'}`,
    `foreign disks ${foreignDisks.join(', ') || 'none'}`,
    // A live domain without a row is only shown, for an operator: it is never changed.
    `foreign domains ${foreignDomains.join(', ') || 'none'}`,
  ];
  return `**${id}** at ${isoNow()}: ${parts.join('; ')}`;
}
