import type { Action } from './actions.ts';
import { repack } from './binding.ts';
import { touch } from './cache.ts';
import { migrate } from './migrate.ts';
import { Openings } from './openings.ts';
import { countByHost, earliestPlace, headS, leastS, readyHosts, wholeS } from './places.ts';
import {
  bootOf,
  claimsOn,
  hasImage,
  type LeaseRecord,
  memoryOpS,
  opsUntil,
  type PlanState,
  reckonVacating,
  removeFrom,
  setClaims,
  vacatableAt,
} from './state.ts';

/** How far down the queue backfilling looks in one pass. */
const backfillDepth = 1000;
/** How many in the queue are tried for an exact fit. */
const exactDepth = 64;
const exactWithoutSuspensionS = 45;
/** Repacking reservations to make room for a start is for sites up to this size; on larger ones there is room elsewhere. */
const makeRoomHosts = 64;
/**
 * Starts and resumes best-effort work that can go now, in the queue's order. Who can't is passed over if the policy
 * allows, and the first (aggressive) or each (conservative) of them keeps a booking that nobody after it may delay.
 */
export function dispatch(state: PlanState, now: number, emit: (action: Action) => void): void {
  const openings = new Openings(state, now);
  const pass: Pass = { state, now, openings, emit, hopeless: Number.POSITIVE_INFINITY };
  if (state.policy.backfilling !== 'none') {
    startExactFits(pass);
  }
  // Bookings are made anew in the queue's order; those for which an image was sent to certain hosts stay.
  for (const record of state.queue) {
    if (record.claims.length > 0 && record.transferUntil === null && !isStaged(record) && record.phase !== 'migrating') {
      unbook(pass, record);
    }
  }
  const bookings = state.policy.backfilling === 'conservative' ? Number.POSITIVE_INFINITY : 1;
  let booked = 0;
  let blocked = false; // without backfilling: by the first that waits, for all but those whose place is kept already
  for (const record of state.queue.slice(0, backfillDepth)) {
    if (record.transferUntil !== null || record.phase === 'migrating') continue;
    if (blocked && !isStaged(record)) continue;
    if (booked >= bookings && record.claims.length === 0 && openings.none(record.shape)) {
      if (state.policy.images === null) break;
      continue; // those whose image was sent are further down, with their place kept
    }
    if (record.claims.length > 0) unbook(pass, record);
    if (start(pass, record)) continue;
    const staged = isStaged(record);
    if ((staged || booked < bookings) && book(pass, record) && !staged) booked++;
    if (state.policy.backfilling === 'none') blocked = true;
  }
  // Only what nobody can use at once is worth the wait for a migration.
  for (const record of state.queue.slice(0, backfillDepth)) {
    if (openings.none(record.shape)) continue;
    if (record.phase === 'suspended') migrate(state, record, now, openings, emit);
  }
}

/**
 * Before all others, work that fills the time before a reservation almost exactly: what is left idle then is less than
 * suspending and resuming somebody longer would take. Nobody's booking is delayed by it.
 */
function startExactFits(pass: Pass): void {
  const { state, openings } = pass;
  const tried = state.queue.slice(0, exactDepth).filter((record) => isSingle(record));
  for (const record of tried) {
    if (record.claims.length === 0 && openings.none(record.shape)) continue;
    const booking = record.claims;
    if (booking.length > 0) unbook(pass, record);
    const hosts = record.phase === 'suspended' ? record.hosts : openings.hosts(record.shape);
    const fitting = hosts.find((host) => fitsExactly(pass, record, host));
    if (fitting !== undefined) launch(pass, record, [fitting]);
    else if (booking.length > 0) {
      setClaims(state, record, 'booking', booking);
      for (const { host } of booking) openings.changed(host);
    }
  }
}

/** Its own copy of the image waits for it on certain hosts. */
function isStaged(record: LeaseRecord): boolean {
  return record.phase === 'waiting' && record.copies.length > 0;
}

function isSingle(record: LeaseRecord): boolean {
  return record.lease.nodes === 1 && record.transferUntil === null && record.phase !== 'migrating';
}

function fitsExactly(pass: Pass, record: LeaseRecord, host: number): boolean {
  const { state, now, openings } = pass;
  const until = openings.on(host, record.shape)[0]?.booked ?? now;
  const idle = until - now - wholeS(state, record, host, 1);
  if (idle < 0 || until === Number.POSITIVE_INFINITY) return false;
  if (idle > exactS(state, record, host)) return false;
  if (record.phase !== 'suspended') return hasImage(state, record, host, now);
  return state.hosts[host]!.up && opsUntil(state, host, now) <= now && mayResume(pass, record, host, 1);
}

function exactS(state: PlanState, record: LeaseRecord, host: number): number {
  return state.policy.suspension ? 3 * memoryOpS(state, host, record.shape) : exactWithoutSuspensionS;
}

interface Pass {
  state: PlanState;
  now: number;
  openings: Openings;
  emit: (action: Action) => void;
  /** Work this long and longer can't be helped by repacking in this pass. */
  hopeless: number;
}

function start(pass: Pass, record: LeaseRecord): boolean {
  const hosts = record.phase === 'suspended' ? whereItIs(pass, record) : anywhere(pass, record);
  if (hosts === null) return false;
  launch(pass, record, hosts);
  return true;
}

/** Suspended work goes on where its memory is. */
function whereItIs(pass: Pass, record: LeaseRecord): number[] | null {
  const { state, now, openings } = pass;
  if (record.hosts.some((host) => openings.on(host, record.shape).length === 0)) return null;
  const counts = countByHost(record.hosts);
  const need = Math.max(...[...counts].map(([host, vms]) => headS(state, record, host, vms))) + record.workS;
  for (const [host, vms] of counts) {
    if (!state.hosts[host]!.up || opsUntil(state, host, now) > now || !mayResume(pass, record, host, vms)) return null;
    const lane = pass.openings.on(host, record.shape)[vms - 1];
    if (lane === undefined) return null;
    if (lane.booked >= now + need) continue;
    if (!mayBeCut(pass, record, host, vms, lane)) return null;
  }
  return record.hosts;
}

/** A resume must not be in the way of the suspends that a promise on this host needs. */
function mayResume(pass: Pass, record: LeaseRecord, host: number, vms: number): boolean {
  const { state, now } = pass;
  const overloaded = state.timeline.planned[host]!.freeUntil(now, record.shape, 0);
  return vacatableAt(state, host, now) + headS(state, record, host, vms) <= overloaded - state.policy.marginS;
}

function mayBeCut(
  pass: Pass,
  record: LeaseRecord,
  host: number,
  vms: number,
  lane: { booked: number; planned: number },
): boolean {
  const { state, now } = pass;
  if (!state.policy.suspension || !record.preemptible || lane.booked < lane.planned) return false;
  return lane.planned - now >= leastS(state, record, host, vms, now);
}

/** New work: where all of it fits, as tightly as possible; else by moving reservations; else where it is cut latest. */
function anywhere(pass: Pass, record: LeaseRecord): number[] | null {
  const { state, now, openings } = pass;
  const { nodes } = record.lease;
  if (openings.total(record.shape) < nodes) return null;
  const ready = openings.hosts(record.shape).filter((host) => hasImage(state, record, host, now));
  const whole: { host: number; vms: number; until: number }[] = [];
  const cut: { host: number; until: number }[] = [];
  for (const host of ready) {
    const lanes = openings.on(host, record.shape);
    const end = now + wholeS(state, record, host, 1);
    let vms = 0;
    while (vms < lanes.length && lanes[vms]!.booked >= end) vms++;
    if (vms > 0) whole.push({ host, vms, until: lanes[vms - 1]!.booked });
    for (const [i, lane] of lanes.entries()) {
      if (i < vms || mayBeCut(pass, record, host, i + 1, lane)) cut.push({ host, until: lane.planned });
    }
  }
  const fit = fewest(whole, nodes);
  if (fit !== null) return fit;
  if (!state.policy.suspension || !record.preemptible) return makeRoom(pass, record, ready);
  if (cut.length < nodes) return null;
  cut.sort((a, b) => b.until - a.until || a.host - b.host);
  return cut.slice(0, nodes).map(({ host }) => host);
}

function fewest(whole: { host: number; vms: number; until: number }[], nodes: number): number[] | null {
  if (nodes === 1) {
    let best = whole[0];
    for (const option of whole) if (option.until < best!.until) best = option;
    return best === undefined ? null : [best.host];
  }
  whole.sort((a, b) => a.until - b.until || a.host - b.host);
  const hosts: number[] = [];
  for (const { host, vms } of whole) {
    for (let i = 0; i < vms && hosts.length < nodes; i++) hosts.push(host);
  }
  return hosts.length === nodes ? hosts : null;
}

/** Exchanges the hosts of reservations, so that single-VM work that can't be cut fits after all. */
function makeRoom(pass: Pass, record: LeaseRecord, ready: readonly number[]): number[] | null {
  const { state, now, openings } = pass;
  if (record.lease.nodes > 1 || ready.length === 0 || state.hosts.length > makeRoomHosts) return null;
  const need = record.workS + bootOf(state, record);
  if (need >= pass.hopeless || openings.lastsUntil(record.shape) < now + need) return null;
  let host = ready[0]!;
  for (const other of ready) {
    if (openings.on(other, record.shape)[0]!.booked > openings.on(host, record.shape)[0]!.booked) host = other;
  }
  setClaims(state, record, record.preemptible ? 'running' : 'promise', claimsOn([host], now, now + need));
  if (repack(state, [], now, { displacing: false, weighImages: false, guest: record })) {
    openings.changedAll();
    return [host];
  }
  setClaims(state, record, 'running', []);
  pass.hopeless = need;
  return null;
}

/** Sets work in motion on its hosts. */
function launch(pass: Pass, record: LeaseRecord, hosts: number[]): void {
  const { state, now } = pass;
  const resumed = record.phase === 'suspended';
  const ids = hosts.map((host) => state.hosts[host]!.spec.id);
  removeFrom(state.queue, record);
  record.hosts = hosts;
  record.bound = true;
  if (!resumed) record.basedOn = hosts;
  let workFrom = now + bootOf(state, record);
  const vms = [];
  if (resumed) {
    workFrom = now;
    for (const [vm, host] of hosts.entries()) {
      const from = opsUntil(state, host, now);
      const until = from + memoryOpS(state, host, record.shape);
      state.hosts[host]!.ops.push({ from, until });
      vms.push({ vm, host: ids[vm]!, fromS: from, untilS: until });
      workFrom = Math.max(workFrom, until);
    }
  }
  record.phase = resumed ? 'resuming' : 'running';
  record.runFrom = workFrom;
  record.operation = { from: now, planned: workFrom, until: workFrom };
  state.underway.add(record);
  record.expectedEnd = workFrom + record.workS;
  setClaims(state, record, record.preemptible ? 'running' : 'promise', claimsOn(hosts, now, record.expectedEnd));
  if (record.preemptible) {
    for (const host of hosts) state.residents[host]!.add(record);
    for (const host of new Set(hosts)) reckonVacating(state, host);
  }
  touch(state, record, now);
  for (const host of hosts) pass.openings.changed(host);
  const common = { lease: record.lease.id, fromS: now, workFromS: workFrom, untilS: record.expectedEnd };
  pass.emit(resumed ? { do: 'resume', ...common, vms } : { do: 'start', ...common, hosts: ids });
}

function unbook(pass: Pass, record: LeaseRecord): void {
  const before = record.claims;
  setClaims(pass.state, record, 'booking', []);
  for (const { host } of before) pass.openings.changed(host);
}

/** Keeps the earliest place for work that is ready but has no room now. */
function book(pass: Pass, record: LeaseRecord): boolean {
  const { state, now } = pass;
  const place = earliestPlace(state, record, now, readyHosts(state, record, now));
  if (place === null) return false;
  setClaims(state, record, 'booking', claimsOn(place.hosts, place.from, place.to));
  for (const host of place.hosts) pass.openings.changed(host);
  return true;
}
