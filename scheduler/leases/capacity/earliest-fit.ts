import type { Shape } from '../lease.ts';
import { ceilSeconds, earliestVacantAt, type LeaseRecord, leadTimeS, mayUse, memoryOpS, type PlanState } from '../plan-state.ts';
import { earliestGangFit } from './timeline.ts';

/** Work that will be preempted must run for at least this many suspends; less is not worth a start. */
const minRunOps = 1;

/** Seconds that a host is occupied before the work runs there, when `vms` of the lease are on it. */
export function startupS(state: PlanState, record: LeaseRecord, host: number, vms: number): number {
  return record.phase === 'suspended' ? vms * memoryOpS(state, host, record.shape) : leadTimeS(state, record);
}

/** Seconds that the remaining work takes on a host, its startup included. */
export function totalS(state: PlanState, record: LeaseRecord, host: number, vms: number): number {
  return startupS(state, record, host, vms) + record.remainingWorkS;
}

/** The least time on a host that is worth a start, when a reservation will preempt the work. */
export function minWorthwhileS(state: PlanState, record: LeaseRecord, host: number, vms: number, now: number): number {
  const op = memoryOpS(state, host, record.shape);
  const vacating = earliestVacantAt(state, host, now) - now + vms * op;
  return startupS(state, record, host, vms) + minRunOps * op + vacating + state.policy.marginS;
}

export interface Fit {
  hosts: number[];
  from: number;
  to: number;
}

/** Hosts that are up, have the lease's image, and may be used by it. */
export function hostsWithImage(state: PlanState, record: LeaseRecord, now: number): number[] {
  return state.hosts.flatMap((host, i) =>
    host.up && mayUse(state, record, i) && state.images.isAtHost(record, i, now) ? [i] : [],
  );
}

/**
 * The earliest fit for waiting work: for all of it, or, if it is preemptible, for enough of it. Suspended work is tried on
 * its own hosts; `earliestFitOn` tries it on others.
 */
export function earliestFit(state: PlanState, record: LeaseRecord, notBefore: number, hosts: readonly number[]): Fit | null {
  if (record.phase !== 'suspended') return earliestFitOn(state, record, notBefore, hosts);
  const counts = countByHost(record.hosts);
  const vms = Math.max(...counts.values());
  const whole = totalS(state, record, record.hosts[0]!, vms);
  return firstValidFit(state, record, vms, whole, (duration) => {
    const from = earliestOnHosts(state, record, counts, notBefore, duration);
    return from === null ? null : { hosts: record.hosts, from };
  });
}

export function earliestFitOn(state: PlanState, record: LeaseRecord, notBefore: number, hosts: readonly number[]): Fit | null {
  if (hosts.length === 0) return null;
  return firstValidFit(state, record, 1, totalS(state, record, hosts[0]!, 1), (duration) => {
    const fit = earliestGangFit(state.timeline.booked, hosts, record.lease.nodes, record.shape, duration, notBefore);
    if (fit === null) return null;
    return { hosts: fit.counts.flatMap(({ host, count }) => Array.from({ length: count }, () => host)), from: fit.from };
  });
}

/** A fit for a part of the work counts if a promise limits it; if a booking does, all of the work must fit. */
function firstValidFit(
  state: PlanState,
  record: LeaseRecord,
  vms: number,
  totalS: number,
  find: (duration: number) => { hosts: number[]; from: number } | null,
): Fit | null {
  const minS = minFitS(state, record, vms, totalS);
  let found = find(minS);
  if (found !== null && minS < totalS && isCutByBooking(state, found.hosts, record.shape, found.from, totalS))
    found = find(totalS);
  return found === null ? null : { ...found, to: fitEndsAt(state, found.hosts, record.shape, found.from, totalS) };
}

function isCutByBooking(state: PlanState, hosts: readonly number[], shape: Shape, from: number, whole: number): boolean {
  for (const [host, vms] of countByHost(hosts)) {
    const booked = state.timeline.booked[host]!.freeUntil(from, shape, vms);
    if (booked < from + whole && booked < state.timeline.planned[host]!.freeUntil(from, shape, vms)) return true;
  }
  return false;
}

/** The shortest fit that counts. */
function minFitS(state: PlanState, record: LeaseRecord, vms: number, whole: number): number {
  return state.policy.suspension && record.preemptible ? Math.min(whole, minWorthwhileOnFullHostS(state, record, vms)) : whole;
}

/** As minWorthwhileS, on a host full of VMs of this size. */
function minWorthwhileOnFullHostS(state: PlanState, record: LeaseRecord, vms: number): number {
  const { suspendMiBPerS, marginS } = state.policy;
  const op = ceilSeconds(record.shape.memoryMiB / suspendMiBPerS);
  const head = record.phase === 'suspended' ? vms * op : leadTimeS(state, record);
  return head + (minRunOps + 2 * vms) * op + marginS;
}

function earliestOnHosts(
  state: PlanState,
  record: LeaseRecord,
  counts: ReadonlyMap<number, number>,
  notBefore: number,
  duration: number,
): number | null {
  let from = notBefore;
  for (;;) {
    let later = from;
    for (const [host, vms] of counts) {
      later = Math.max(later, state.timeline.booked[host]!.earliest(from, duration, record.shape, vms));
    }
    if (later === Number.POSITIVE_INFINITY) return null;
    if (later === from) return from;
    from = later;
  }
}

/** Where a booking ends: at the end of the work or where a promise begins. */
function fitEndsAt(state: PlanState, hosts: readonly number[], shape: Shape, from: number, whole: number): number {
  let to = from + whole;
  for (const [host, vms] of countByHost(hosts)) to = Math.min(to, state.timeline.planned[host]!.freeUntil(from, shape, vms));
  return Math.max(to, from + 1);
}

export function countByHost(hosts: readonly number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const host of hosts) counts.set(host, (counts.get(host) ?? 0) + 1);
  return counts;
}
