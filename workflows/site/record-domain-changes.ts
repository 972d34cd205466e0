import { condition, continueAsNew, defineSignal, setHandler } from '@temporalio/workflow';
import type { HostId, VmId } from '../../model/ids.ts';
import { signalName, workflowId } from '../../model/temporal.ts';
import { onHost, onLedger } from '../durable/activity-proxies.ts';
import { Backoff } from '../durable/backoff.ts';
import { neverStarted, taskErrorOf } from '../durable/failure.ts';
import { isHistoryLong } from '../durable/history-limit.ts';
import { notify } from '../durable/other-workflows.ts';
import { isoNow, Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';

const domainsChangedSignal = defineSignal<[VmId[]]>(signalName.domainsChanged);

/** In one round: their reports are a few kilobytes. */
const vmsPerRound = 100;
/** Rounds in which an operation was under way on each VM: five minutes. The host reports all its VMs again later. */
const busyRounds = 15;

/**
 * Writes what domains of one host do that Berth did not order: a guest powers itself off or crashes, somebody pauses or
 * resumes it. The host's worker starts it with the VMs that have changed; it ends when the ledger has all of them.
 * @param due the VMs that are left from before it continued as new
 */
export async function recordDomainChanges(id: HostId, pace = 1, due: VmId[] = []): Promise<void> {
  const run: DomainRun = { id, pace, progress: new Progress() };
  run.progress.setAttributes({ hosts: [id] });
  const changed = new Set(due);
  let signalsReceived = 0;
  setHandler(domainsChangedSignal, (vmIds) => {
    for (const vmId of vmIds) changed.add(vmId);
    signalsReceived += 1;
  });
  for (let seen = -1, rounds = 0, backoff = newBackoff(pace); changed.size > 0 && rounds < busyRounds; rounds += 1) {
    if (signalsReceived > seen) [rounds, backoff] = [0, newBackoff(pace)];
    seen = signalsReceived;
    const busy: VmId[] = [];
    while (changed.size > 0) {
      const looked = [...changed].slice(0, vmsPerRound);
      for (const vmId of looked) changed.delete(vmId);
      const outcome = await recordOrIsolate(run, looked);
      // Its worker reports all VMs when it is back.
      if (outcome === 'unreachable') return;
      busy.push(...outcome);
    }
    for (const vmId of busy) changed.add(vmId);
    if (isHistoryLong()) await continueAsNew<typeof recordDomainChanges>(id, pace, [...changed]);
    if (changed.size > 0) await condition(() => signalsReceived > seen, backoff.next());
  }
}

const newBackoff = (pace: number): Backoff => new Backoff(timing(pace).domainBackoff);

interface DomainRun {
  readonly id: HostId;
  readonly pace: number;
  readonly progress: Progress;
}

/** A VM that fails does not keep others from being recorded: each has a round of its own then. @returns those to look at again */
async function recordOrIsolate(run: DomainRun, vmIds: VmId[]): Promise<VmId[] | 'unreachable'> {
  try {
    return await recordOnce(run, vmIds);
  } catch (error) {
    run.progress.setDetail('failed', `the round at ${isoNow()} failed: ${taskErrorOf(error).message}`);
    if (neverStarted(error)) return 'unreachable';
  }
  if (vmIds.length === 1) return [];
  const again: VmId[] = [];
  for (const vmId of vmIds) {
    const outcome = await recordOrIsolate(run, [vmId]);
    if (outcome === 'unreachable') return outcome;
    again.push(...outcome);
  }
  return again;
}

/** The VMs' generations are read before their domains: an operation that begins in between is noticed by its generation. */
async function recordOnce({ id, pace, progress }: DomainRun, vmIds: VmId[]): Promise<VmId[]> {
  const ledger = onLedger(pace);
  const { settled, busy } = await ledger.loadDomainTargets(id, vmIds);
  progress.setDetail('busy', busy.length === 0 ? null : `operations are under way on ${busy.length} VMs: looked at again`);
  if (settled.length === 0) return busy;
  const reports = await onHost(id, pace, 'throw').observeDomains(settled.map(({ vmId }) => vmId));
  const generations = new Map(settled.map(({ vmId, generation }) => [vmId, generation]));
  const findings = reports.map((report) => ({ ...report, generation: generations.get(report.vmId) ?? 0 }));
  if (findings.length === 0) return busy;
  const { changed, again } = await ledger.recordDomains(id, findings);
  progress.setDetail('round', `**${id}** at ${isoNow()}: ${changed.length} VMs changed, ${again.length} to look at again`);
  for (const vmId of changed) await notify(workflowId.vm(vmId), signalName.locationChanged);
  return [...busy, ...again];
}
