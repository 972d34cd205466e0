import { condition, continueAsNew, defineSignal, setHandler, workflowInfo } from '@temporalio/workflow';
import type { HostId, VmId } from '../../model/ids.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { Backoff } from '../durable/backoff.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { notify } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';

const domainsChangedSignal = defineSignal<[VmId[]]>(signalName.domainsChanged);

/** In one round: their reports are a few kilobytes. */
const vmsPerRound = 100;
/** Rounds in which an operation was under way on each VM: five minutes. The host reports all its VMs again later. */
const roundsWithoutNews = 15;

/**
 * Writes what domains of one host do that Berth did not order: a guest powers itself off or crashes, somebody pauses or
 * resumes it. The host's worker starts it with the VMs that have changed; it ends when the ledger has all of them.
 * @param due the VMs that are left from before it continued as new
 */
export async function recordDomainChanges(id: HostId, pace = 1, due: VmId[] = []): Promise<void> {
  const progress = new Progress();
  progress.setAttributes({ hosts: [id] });
  const changed = new Set(due);
  let signalsReceived = 0;
  setHandler(domainsChangedSignal, (vmIds) => {
    for (const vmId of vmIds) changed.add(vmId);
    signalsReceived += 1;
  });
  let backoff = new Backoff(timing(pace).domainBackoff);
  let rounds = 0;
  for (let seen = 0; changed.size > 0 && rounds < roundsWithoutNews; rounds += 1) {
    if (signalsReceived > seen) {
      rounds = 0;
      backoff = new Backoff(timing(pace).domainBackoff);
    }
    seen = signalsReceived;
    const looked = [...changed].slice(0, vmsPerRound);
    for (const vmId of looked) changed.delete(vmId);
    try {
      for (const vmId of await recordOnce(id, pace, looked, progress)) changed.add(vmId);
    } catch (error) {
      // The host is unreachable: its worker reports all VMs when it is back.
      progress.setDetail('round', `the round at ${isoNow()} failed: ${taskErrorOf(error).message}`);
      return;
    }
    if (changed.size === 0) return;
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof recordDomainChanges>(id, pace, [...changed]);
    if (looked.length < vmsPerRound) await condition(() => signalsReceived > seen, backoff.next());
  }
}

/** The VMs' generations are read before their domains: an operation that begins in between is noticed by its generation. */
async function recordOnce(id: HostId, pace: number, vmIds: VmId[], progress: Progress): Promise<VmId[]> {
  const ledger = onLedger(pace);
  const { settled, busy } = await ledger.loadDomainTargets(id, vmIds);
  progress.setDetail('busy', busy.length === 0 ? null : `operations are under way on ${busy.join(', ')}: looked at again`);
  if (settled.length === 0) return busy;
  const reports = await onHost(id, pace, 'throw').observeDomains(settled.map(({ vmId }) => vmId));
  const generations = new Map(settled.map(({ vmId, generation }) => [vmId, generation]));
  const findings = reports.map((report) => ({ ...report, generation: generations.get(report.vmId) ?? 0 }));
  if (findings.length === 0) return busy;
  const { changed, again } = await ledger.recordDomains(id, findings);
  progress.setDetail('round', `**${id}** at ${isoNow()}: changed ${changed.join(', ') || 'none'}`);
  for (const vmId of changed) await notify(workflowId.vm(vmId), signalName.locationChanged);
  return [...busy, ...again];
}
