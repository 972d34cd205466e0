import type { Allocation } from './capacity/timeline.ts';
import {
  allocationsOn,
  earliestVacantAt,
  type LeaseRecord,
  memoryOpS,
  type PlanState,
  setAllocations,
  vmStartAt,
} from './plan-state.ts';

/**
 * The hosts of a reservation become final as late as possible. Until then it has provisional hosts, which prove that the
 * promise can be kept and are exchanged when that helps another lease.
 *
 * With VMs of one size this costs nothing: VMs placed in the order of their starts, each on any host where it fits, all
 * find a host as long as the sum fits (interval graphs are perfect).
 */

/** Beyond this many VMs times hosts a full repacking is not tried: so large a site has capacity on other hosts. */
const repackLimit = 250_000;

interface Candidate {
  host: number;
  cost: number;
  until: number;
}

/** The interval in which a reservation's VMs occupy their hosts. */
function occupiedInterval(state: PlanState, record: LeaseRecord): { from: number; to: number } {
  return { from: vmStartAt(state, record), to: record.promise!.endAt };
}

/** One entry for each VM that fits on the host, the cheapest first: free capacity, then capacity that must be vacated. */
function candidatesOn(state: PlanState, record: LeaseRecord, host: number, now: number): Candidate[] {
  const { from, to } = occupiedInterval(state, record);
  const { nodes } = record.lease;
  if (!state.hosts[host]!.up) return [];
  const free = state.timeline.planned[host]!.fits(from, to, record.shape, nodes);
  let fitCount = free;
  if (free < nodes && earliestVacantAt(state, host, now) <= from - state.policy.marginS) {
    fitCount = Math.max(free, state.timeline.promised[host]!.fits(from, to, record.shape, nodes));
  }
  if (fitCount === 0) return [];
  const until = state.timeline.promised[host]!.freeUntil(to, record.shape, 1);
  const preemptionCost = state.policy.suspension ? 2 * memoryOpS(state, host, record.shape) : lostWorkS(state, host, from);
  const list: Candidate[] = [];
  for (let i = 0; i < fitCount; i++) list.push({ host, cost: i < free ? 0 : preemptionCost * (1 + 0.5 * (i - free)), until });
  return list;
}

/** Seconds of work that are lost when a host's preemptible work is stopped; at least 1. */
function lostWorkS(state: PlanState, host: number, at: number): number {
  let least = Number.POSITIVE_INFINITY;
  for (const preemptible of state.preemptibleByHost[host]!) {
    if (preemptible.expectedEnd > at) least = Math.min(least, Math.max(1, at - preemptible.runFrom));
  }
  return least === Number.POSITIVE_INFINITY ? 1 : least;
}

function cheapest(candidates: readonly Candidate[], nodes: number): { hosts: number[]; cost: number } | null {
  if (candidates.length < nodes) return null;
  const chosen: Candidate[] = [];
  for (const candidate of candidates) {
    if (chosen.length === nodes && !isCheaper(candidate, chosen[nodes - 1]!)) continue;
    let low = 0;
    let high = chosen.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isCheaper(candidate, chosen[middle]!)) high = middle;
      else low = middle + 1;
    }
    chosen.splice(low, 0, candidate);
    if (chosen.length > nodes) chosen.pop();
  }
  return { hosts: chosen.map((c) => c.host), cost: chosen.reduce((sum, c) => sum + c.cost, 0) };
}

function isCheaper(a: Candidate, b: Candidate): boolean {
  if (a.cost !== b.cost) return a.cost < b.cost;
  return a.until !== b.until ? a.until < b.until : a.host < b.host;
}

/** Hosts for a reservation that has none: the least preemption first, then the tightest fit. */
function chooseReservationHosts(
  state: PlanState,
  record: LeaseRecord,
  now: number,
  preferCachedImages: boolean,
): number[] | null {
  const candidates = state.hosts.flatMap((_, host) => candidatesOn(state, record, host, now));
  const any = cheapest(candidates, record.lease.nodes);
  if (any === null || !preferCachedImages || state.images.areInPlace) return any?.hosts ?? null;
  const withImage = cheapest(
    candidates.filter((c) => state.images.isAtHost(record, c.host, now)),
    record.lease.nodes,
  );
  return withImage !== null && withImage.cost <= any.cost + state.images.transferS(record) ? withImage.hosts : any.hosts;
}

function assignHosts(state: PlanState, record: LeaseRecord, hosts: number[]): void {
  const { from, to } = occupiedInterval(state, record);
  record.hosts = hosts;
  setAllocations(state, record, 'promise', allocationsOn(hosts, from, to));
}

/** Finds hosts for a new reservation and exchanges those of others if necessary. False: there are none; nothing changed. */
export function assignProvisionalHosts(state: PlanState, record: LeaseRecord, now: number): boolean {
  const hosts = chooseReservationHosts(state, record, now, false);
  if (hosts !== null) {
    assignHosts(state, record, hosts);
    return true;
  }
  return repack(state, [record], now, { mayPreempt: true, preferCachedImages: false });
}

/**
 * Places all reservations that aren't bound again, and `extra` with them, in the order of their starts. All or nothing.
 * Without `mayPreempt` the reservations must not preempt more running work than before; `incoming` is the work that needs
 * the capacity, with its allocations in place.
 */
export function repack(
  state: PlanState,
  extra: readonly LeaseRecord[],
  now: number,
  options: { mayPreempt: boolean; preferCachedImages: boolean; incoming?: LeaseRecord },
): boolean {
  const movable = state.upcoming.filter((record) => !record.bound);
  for (const record of extra) if (!movable.includes(record)) movable.push(record);
  let vms = 0;
  for (const record of movable) vms += record.lease.nodes;
  if (vms * state.hosts.length > repackLimit) return false;
  movable.sort((a, b) => vmStartAt(state, a) - vmStartAt(state, b) || b.promise!.endAt - a.promise!.endAt || a.seq - b.seq);

  const before = movable.map((record) => ({ record, hosts: record.hosts, allocations: record.allocations }));
  const overcommittedBefore = options.mayPreempt ? 0 : countOvercommitted(state, movable);
  for (const record of movable) setAllocations(state, record, 'promise', []);
  const fits =
    (options.incoming === undefined || fitsAsPlanned(state, options.incoming)) &&
    movable.every((record) => {
      const hosts = chooseReservationHosts(state, record, now, options.preferCachedImages && extra.includes(record));
      if (hosts !== null) assignHosts(state, record, hosts);
      return hosts !== null;
    });
  if (fits && (options.mayPreempt || countOvercommitted(state, movable) <= overcommittedBefore)) return true;
  for (const { record } of before) setAllocations(state, record, 'promise', []);
  for (const { record, hosts, allocations } of before) {
    record.hosts = hosts;
    setAllocations(state, record, 'promise', allocations);
  }
  return false;
}

/** Whether allocations that are in place overload no host. */
function fitsAsPlanned(state: PlanState, record: LeaseRecord): boolean {
  return record.allocations.every(({ host, from, to }) => state.timeline.booked[host]!.freeUntil(from, record.shape, 0) >= to);
}

/** How many of the reservations' VMs are on hosts where running work would have to be preempted. */
function countOvercommitted(state: PlanState, records: readonly LeaseRecord[]): number {
  let count = 0;
  for (const record of records) {
    for (const { host, from } of record.allocations) {
      const taken = state.timeline.planned[host]!.taken(from);
      const { capacity } = state.hosts[host]!;
      if (taken.cpuMilli > capacity.cpuMilli || taken.memoryMiB > capacity.memoryMiB || taken.diskMiB > capacity.diskMiB) count++;
    }
  }
  return count;
}

/** Makes a reservation's hosts final, the best ones available now. */
export function bind(state: PlanState, record: LeaseRecord, now: number): void {
  if (record.bound) return;
  const isSettled = state.images.areInPlace && countOvercommitted(state, [record]) === 0;
  if (!isSettled && !repack(state, [record], now, { mayPreempt: true, preferCachedImages: true }))
    reassignAlone(state, record, now);
  record.bound = true;
}

/** On a site too large to repack: the best hosts that are free with the other reservations where they are. */
function reassignAlone(state: PlanState, record: LeaseRecord, now: number): void {
  const before: { hosts: number[]; allocations: Allocation[] } = { hosts: record.hosts, allocations: record.allocations };
  setAllocations(state, record, 'promise', []);
  const hosts = chooseReservationHosts(state, record, now, true);
  if (hosts !== null) assignHosts(state, record, hosts);
  else {
    record.hosts = before.hosts;
    setAllocations(state, record, 'promise', before.allocations);
  }
}
