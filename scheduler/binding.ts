import {
  beginsAt,
  claimsOn,
  hasImage,
  type LeaseRecord,
  memoryOpS,
  type PlanState,
  setClaims,
  transferS,
  vacatableAt,
} from './state.ts';
import type { Claim } from './timeline.ts';

/**
 * Which hosts a reservation gets is decided as late as possible. Until then it holds claims on some hosts that suit it,
 * the witness that the promise can be kept, and they are exchanged freely when that helps somebody else.
 *
 * With VMs of one size this loses nothing: VMs placed in the order of their starts on any host with room never meet a
 * dead end while the sum fits (interval graphs are perfect).
 */

/** Beyond this many VMs to move times hosts to look at, a full repacking is not tried: on so large a site there is room. */
const repackLimit = 250_000;

interface Candidate {
  host: number;
  cost: number;
  until: number;
}

/** The interval in which a reservation's VMs occupy their hosts. */
function span(state: PlanState, record: LeaseRecord): { from: number; to: number } {
  return { from: beginsAt(state, record), to: record.promise!.endAt };
}

/** One entry for each VM that could go to the host, the cheapest first: room that is free, then room that must be vacated. */
function candidatesOn(state: PlanState, record: LeaseRecord, host: number, now: number): Candidate[] {
  const { from, to } = span(state, record);
  const { nodes } = record.lease;
  if (!state.hosts[host]!.up) return [];
  const free = state.timeline.planned[host]!.fits(from, to, record.shape, nodes);
  let room = free;
  if (free < nodes && vacatableAt(state, host, now) <= from - state.policy.marginS) {
    room = Math.max(free, state.timeline.promised[host]!.fits(from, to, record.shape, nodes));
  }
  if (room === 0) return [];
  const until = state.timeline.promised[host]!.freeUntil(to, record.shape, 1);
  const displacing = state.policy.suspension ? 2 * memoryOpS(state, host, record.shape) : killedWork(state, host, from);
  const list: Candidate[] = [];
  for (let i = 0; i < room; i++) list.push({ host, cost: i < free ? 0 : displacing * (1 + 0.5 * (i - free)), until });
  return list;
}

/** What is lost when a host's preemptible work is stopped: never nothing. */
function killedWork(state: PlanState, host: number, at: number): number {
  let least = Number.POSITIVE_INFINITY;
  for (const resident of state.residents[host]!) {
    if (resident.expectedEnd > at) least = Math.min(least, Math.max(1, at - resident.runFrom));
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

/** Hosts for a reservation that has none: those with room, where least must be displaced, tightest first. */
function chooseHosts(state: PlanState, record: LeaseRecord, now: number, weighImages: boolean): number[] | null {
  const candidates = state.hosts.flatMap((_, host) => candidatesOn(state, record, host, now));
  const any = cheapest(candidates, record.lease.nodes);
  if (any === null || !weighImages || state.policy.images === null) return any?.hosts ?? null;
  const having = cheapest(
    candidates.filter((c) => hasImage(state, record, c.host, now)),
    record.lease.nodes,
  );
  return having !== null && having.cost <= any.cost + transferS(state, record) ? having.hosts : any.hosts;
}

function claim(state: PlanState, record: LeaseRecord, hosts: number[]): void {
  const { from, to } = span(state, record);
  record.hosts = hosts;
  setClaims(state, record, 'promise', claimsOn(hosts, from, to));
}

/**
 * Finds hosts for a new reservation, exchanging those of others if need be. False: it can't be had; nothing changed.
 */
export function findWitness(state: PlanState, record: LeaseRecord, now: number): boolean {
  const hosts = chooseHosts(state, record, now, false);
  if (hosts !== null) {
    claim(state, record, hosts);
    return true;
  }
  return repack(state, [record], now, { displacing: true, weighImages: false });
}

/**
 * Places all reservations that aren't bound anew, in the order of their starts, and `extra` with them. All or nothing.
 * `displacing: false` refuses an outcome in which a reservation would displace more running work than before; `guest`
 * is the work for which room is made, with its claims in place.
 */
export function repack(
  state: PlanState,
  extra: readonly LeaseRecord[],
  now: number,
  how: { displacing: boolean; weighImages: boolean; guest?: LeaseRecord },
): boolean {
  const movable = state.upcoming.filter((record) => !record.bound);
  for (const record of extra) if (!movable.includes(record)) movable.push(record);
  let vms = 0;
  for (const record of movable) vms += record.lease.nodes;
  if (vms * state.hosts.length > repackLimit) return false;
  movable.sort((a, b) => beginsAt(state, a) - beginsAt(state, b) || b.promise!.endAt - a.promise!.endAt || a.seq - b.seq);

  const before = movable.map((record) => ({ record, hosts: record.hosts, claims: record.claims }));
  const displacedBefore = how.displacing ? 0 : overcommitted(state, movable);
  for (const record of movable) setClaims(state, record, 'promise', []);
  const fits =
    (how.guest === undefined || hasRoom(state, how.guest)) &&
    movable.every((record) => {
      const hosts = chooseHosts(state, record, now, how.weighImages && extra.includes(record));
      if (hosts !== null) claim(state, record, hosts);
      return hosts !== null;
    });
  if (fits && (how.displacing || overcommitted(state, movable) <= displacedBefore)) return true;
  for (const { record } of before) setClaims(state, record, 'promise', []);
  for (const { record, hosts, claims } of before) {
    record.hosts = hosts;
    setClaims(state, record, 'promise', claims);
  }
  return false;
}

/** Whether claims that are in place overload no host while nothing else is moved. */
function hasRoom(state: PlanState, record: LeaseRecord): boolean {
  return record.claims.every(({ host, from, to }) => state.timeline.booked[host]!.freeUntil(from, record.shape, 0) >= to);
}

/** How many of the reservations' VMs sit where running work would have to go. */
function overcommitted(state: PlanState, records: readonly LeaseRecord[]): number {
  let count = 0;
  for (const record of records) {
    for (const { host, from } of record.claims) {
      const taken = state.timeline.planned[host]!.taken(from);
      const { capacity } = state.hosts[host]!;
      if (taken.cpuMilli > capacity.cpuMilli || taken.memoryMiB > capacity.memoryMiB || taken.diskMiB > capacity.diskMiB) count++;
    }
  }
  return count;
}

/** Makes a reservation's hosts final, the best that can be had now. */
export function bind(state: PlanState, record: LeaseRecord, now: number): void {
  if (record.bound) return;
  const perfect = state.policy.images === null && overcommitted(state, [record]) === 0;
  if (!perfect && !repack(state, [record], now, { displacing: true, weighImages: true })) improveAlone(state, record, now);
  record.bound = true;
}

/** On a site too large to repack: the best hosts among those with room beside the others' claims. */
function improveAlone(state: PlanState, record: LeaseRecord, now: number): void {
  const before: { hosts: number[]; claims: Claim[] } = { hosts: record.hosts, claims: record.claims };
  setClaims(state, record, 'promise', []);
  const hosts = chooseHosts(state, record, now, true);
  if (hosts !== null) claim(state, record, hosts);
  else {
    record.hosts = before.hosts;
    setClaims(state, record, 'promise', before.claims);
  }
}
