import type { Shape } from './lease.ts';
import { bootOf, hasImage, type LeaseRecord, memoryOpS, type PlanState, vacatableAt, wholeSeconds } from './state.ts';
import { earliestFit } from './timeline.ts';

/** Work that will be cut runs at least this many suspends long, or it isn't worth the trouble. */
const leastRunOps = 1;

/** Seconds that a host is taken before the work goes on there, when `vms` of the lease are on it. */
export function headS(state: PlanState, record: LeaseRecord, host: number, vms: number): number {
  return record.phase === 'suspended' ? vms * memoryOpS(state, host, record.shape) : bootOf(state, record);
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
  return firstValid(state, record, vms, whole, (duration) => {
    const from = earliestOnItsHosts(state, record, counts, notBefore, duration);
    return from === null ? null : { hosts: record.hosts, from };
  });
}

export function earliestPlaceOn(
  state: PlanState,
  record: LeaseRecord,
  notBefore: number,
  hosts: readonly number[],
): Place | null {
  if (hosts.length === 0) return null;
  return firstValid(state, record, 1, wholeS(state, record, hosts[0]!, 1), (duration) => {
    const fit = earliestFit(state.timeline.booked, hosts, record.lease.nodes, record.shape, duration, notBefore);
    if (fit === null) return null;
    return { hosts: fit.parts.flatMap(({ host, count }) => Array.from({ length: count }, () => host)), from: fit.from };
  });
}

/** A place for a part of the work counts when it is a promise that cuts it, not a booking; else all of it must fit. */
function firstValid(
  state: PlanState,
  record: LeaseRecord,
  vms: number,
  whole: number,
  find: (duration: number) => { hosts: number[]; from: number } | null,
): Place | null {
  const part = worthwhile(state, record, vms, whole);
  let found = find(part);
  if (found !== null && part < whole && cutByBooking(state, found.hosts, record.shape, found.from, whole)) found = find(whole);
  return found === null ? null : { ...found, to: cutAt(state, found.hosts, record.shape, found.from, whole) };
}

function cutByBooking(state: PlanState, hosts: readonly number[], shape: Shape, from: number, whole: number): boolean {
  for (const [host, vms] of countByHost(hosts)) {
    const booked = state.timeline.booked[host]!.freeUntil(from, shape, vms);
    if (booked < from + whole && booked < state.timeline.planned[host]!.freeUntil(from, shape, vms)) return true;
  }
  return false;
}

/** How much of the work must fit for its place to count. */
function worthwhile(state: PlanState, record: LeaseRecord, vms: number, whole: number): number {
  return state.policy.suspension && record.preemptible ? Math.min(whole, leastAnywhere(state, record, vms)) : whole;
}

/** As leastS, on a host full of VMs of this size. */
function leastAnywhere(state: PlanState, record: LeaseRecord, vms: number): number {
  const { suspendMiBPerS, marginS } = state.policy;
  const op = wholeSeconds(record.shape.memoryMiB / suspendMiBPerS);
  const head = record.phase === 'suspended' ? vms * op : bootOf(state, record);
  return head + (leastRunOps + 2 * vms) * op + marginS;
}

function earliestOnItsHosts(
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
