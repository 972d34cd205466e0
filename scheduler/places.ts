import type { Shape } from './lease.ts';
import { hasImage, type LeaseRecord, memoryOpS, type PlanState, vacatableAt, wholeSeconds } from './state.ts';
import { earliestFit } from './timeline.ts';

/** Work that will be cut runs at least this many suspends long, or it isn't worth the trouble. */
const leastRunOps = 1;

/** Seconds that a host is taken before the work goes on there, when `vms` of the lease are on it. */
export function headS(state: PlanState, record: LeaseRecord, host: number, vms: number): number {
  return record.phase === 'suspended' ? vms * memoryOpS(state, host, record.shape) : state.policy.bootS;
}

/** What the whole rest of the work takes on a host, with what precedes it. */
export function wholeS(state: PlanState, record: LeaseRecord, host: number, vms: number): number {
  return headS(state, record, host, vms) + record.workS;
}

/** The least time on a host that is worth starting for, when a reservation will cut it. */
export function leastS(state: PlanState, record: LeaseRecord, host: number, vms: number, now: number): number {
  const op = memoryOpS(state, host, record.shape);
  const vacating = vacatableAt(state, host, now) - now + vms * op;
  return headS(state, record, host, vms) + leastRunOps * op + vacating + state.policy.marginS;
}

export interface Place {
  hosts: number[];
  from: number;
  to: number;
}

/** Hosts on which waiting work could start as far as its image is concerned. */
export function readyHosts(state: PlanState, record: LeaseRecord, now: number): number[] {
  return state.hosts.flatMap((host, i) => (host.up && hasImage(state, record, i, now) ? [i] : []));
}

/**
 * The earliest place for waiting work: where all of it fits, or, if it may be cut, where enough of it does. Suspended
 * work stays where it is; to look elsewhere, ask `earliestPlaceOn`.
 */
export function earliestPlace(state: PlanState, record: LeaseRecord, notBefore: number, hosts: readonly number[]): Place | null {
  if (record.phase !== 'suspended') return earliestPlaceOn(state, record, notBefore, hosts);
  const counts = countByHost(record.hosts);
  const vms = Math.max(...counts.values());
  const whole = wholeS(state, record, record.hosts[0]!, vms);
  return onItsHosts(state, record, counts, notBefore, worthwhile(state, record, vms, whole), whole);
}

export function earliestPlaceOn(state: PlanState, record: LeaseRecord, notBefore: number, hosts: readonly number[]): Place | null {
  if (hosts.length === 0) return null;
  const whole = wholeS(state, record, hosts[0]!, 1);
  const duration = worthwhile(state, record, 1, whole);
  const fit = earliestFit(state.timeline.booked, hosts, record.lease.nodes, record.shape, duration, notBefore);
  if (fit === null) return null;
  const chosen = fit.parts.flatMap(({ host, count }) => Array.from({ length: count }, () => host));
  return { hosts: chosen, from: fit.from, to: cutAt(state, chosen, record.shape, fit.from, whole) };
}

/** How much of the work must fit for its place to count. */
function worthwhile(state: PlanState, record: LeaseRecord, vms: number, whole: number): number {
  return state.policy.suspension && record.preemptible ? Math.min(whole, leastAnywhere(state, record, vms)) : whole;
}

/** As leastS, on a host full of VMs of this size. */
function leastAnywhere(state: PlanState, record: LeaseRecord, vms: number): number {
  const { suspendMiBPerS, marginS } = state.policy;
  const op = wholeSeconds(record.shape.memoryMiB / suspendMiBPerS);
  const head = record.phase === 'suspended' ? vms * op : state.policy.bootS;
  return head + (leastRunOps + 2 * vms) * op + marginS;
}

function onItsHosts(
  state: PlanState,
  record: LeaseRecord,
  counts: ReadonlyMap<number, number>,
  notBefore: number,
  duration: number,
  whole: number,
): Place | null {
  let from = notBefore;
  for (;;) {
    let later = from;
    for (const [host, vms] of counts) {
      later = Math.max(later, state.timeline.booked[host]!.earliest(from, duration, record.shape, vms));
    }
    if (later === Number.POSITIVE_INFINITY) return null;
    if (later === from) break;
    from = later;
  }
  return { hosts: record.hosts, from, to: cutAt(state, record.hosts, record.shape, from, whole) };
}

/** Where a booking ends: at the end of the work or where a promise cuts it. */
function cutAt(state: PlanState, hosts: readonly number[], shape: Shape, from: number, whole: number): number {
  let to = from + whole;
  for (const [host, vms] of countByHost(hosts)) to = Math.min(to, state.timeline.planned[host]!.freeUntil(from, shape, vms));
  return Math.max(to, from + 1);
}

export function countByHost(hosts: readonly number[]): Map<number, number> {
  const counts = new Map<number, number>();
  for (const host of hosts) counts.set(host, (counts.get(host) ?? 0) + 1);
  return counts;
}
