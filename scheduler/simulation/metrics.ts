import type { Schedule } from './simulator.ts';
import type { Trace, TraceLease } from './trace.ts';

/** The measures of test/traces/README.md, by their names there, and three more. */
export interface Metrics {
  leases: number;
  be_done: number;
  ar_done: number;
  ar_rejected: number;
  all_be_completion_s: number;
  util_useful: number;
  wait_mean_s: number;
  wait_p95_s: number;
  slowdown_mean: number;
  suspensions: number;
  image_transfers: number;
  /** Leases of any kind that were refused. */
  rejections: number;
  /** Suspensions, and runs that were stopped and lost. */
  preemptions: number;
  /** MB that the repository sends, counted once per transfer whatever the number of hosts, and MB that hosts receive. */
  mb_sent: number;
  mb_deployed: number;
}

export function measure(trace: Trace, schedule: Schedule): Metrics {
  const firstStart = new Map<string, number>();
  let suspensions = 0;
  let stops = 0;
  let transfers = 0;
  let sent = 0;
  let deployed = 0;
  for (const action of schedule.actions) {
    if (action.kind === 'start' && !firstStart.has(action.lease)) firstStart.set(action.lease, action.fromS);
    if (action.kind === 'suspend') suspensions++;
    if (action.kind === 'stop') stops++;
    if (action.kind === 'transfer') {
      transfers++;
      sent += action.imageMiB;
      deployed += action.imageMiB * action.hosts.length;
    }
  }
  const done = trace.leases.filter((lease) => schedule.endedAtS.has(lease.id));
  const ended = (lease: TraceLease) => schedule.endedAtS.get(lease.id)!;
  const bestEffort = done.filter((lease) => lease.kind === 'bestEffort');
  const waits = bestEffort.map((lease) => firstStart.get(lease.id)! - lease.submittedAtS).sort((a, b) => a - b);
  const slowdowns = bestEffort.map((lease) => (ended(lease) - lease.submittedAtS) / Math.max(10, lease.durationS));
  const last = done.reduce((latest, lease) => Math.max(latest, ended(lease)), 0);
  const rejections = [...schedule.answers.values()].filter((answer) => !answer.accepted).length;
  const reservations = trace.leases.filter((lease) => lease.kind !== 'bestEffort');
  return {
    leases: trace.leases.length,
    be_done: bestEffort.length,
    ar_done: done.length - bestEffort.length,
    ar_rejected: reservations.filter((lease) => schedule.answers.get(lease.id)?.accepted === false).length,
    all_be_completion_s: bestEffort.reduce((latest, lease) => Math.max(latest, ended(lease)), 0),
    util_useful: round(done.reduce((sum, lease) => sum + usefulS(lease) * lease.nodes, 0) / (vmCapacityOf(trace) * last || 1)),
    wait_mean_s: round(mean(waits)),
    wait_p95_s: waits[Math.min(waits.length - 1, Math.floor(waits.length * 0.95))] ?? 0,
    slowdown_mean: round(mean(slowdowns)),
    suspensions,
    image_transfers: transfers,
    rejections,
    preemptions: suspensions + stops,
    mb_sent: sent,
    mb_deployed: deployed,
  };
}

function usefulS(lease: TraceLease): number {
  return Math.min(lease.actualDurationS ?? lease.durationS, lease.durationS);
}

/** How many VMs of the trace's average size the hosts hold. */
function vmCapacityOf(trace: Trace): number {
  const { hosts, leases } = trace;
  const vcpus = mean(leases.map((lease) => lease.vcpus)) || hosts.vcpus;
  const memory = mean(leases.map((lease) => lease.memoryMiB)) || hosts.memoryMiB;
  return hosts.count * Math.min(hosts.vcpus / vcpus, hosts.memoryMiB / memory);
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

function round(value: number): number {
  return Math.round(value * 1e4) / 1e4;
}
