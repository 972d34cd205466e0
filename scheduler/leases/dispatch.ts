import type { Action } from './actions.ts';
import { countByHost, earliestFit, hostsWithImage, minWorthwhileS, startupS, totalS } from './capacity/earliest-fit.ts';
import { FreeSlots } from './capacity/free-slots.ts';
import { repack } from './host-binding.ts';
import { markImageUsed } from './images/image-cache.ts';
import { migrateSuspended } from './migrate-suspended.ts';
import {
  allocationsOn,
  earliestVacantAt,
  hasImage,
  type LeaseRecord,
  leadTimeS,
  memoryOpS,
  memoryOpsEndAt,
  type PlanState,
  removeFrom,
  setAllocations,
  updateSuspendAllS,
} from './plan-state.ts';

/** How far down the queue backfilling looks in one pass. */
const backfillDepth = 1000;
/** How many in the queue are tried for an exact fit. */
const exactFitDepth = 64;
const exactFitWithoutSuspensionS = 45;
/** Repacking reservations to make room for a start is for sites up to this size; on larger ones there is room elsewhere. */
const maxRepackHosts = 64;
/**
 * Starts and resumes best-effort work that can go now, in the queue's order. Who can't is passed over if the policy
 * allows, and the first (aggressive) or each (conservative) of them keeps a booking that nobody after it may delay.
 */
export function dispatch(state: PlanState, now: number, emit: (action: Action) => void): void {
  const freeSlots = new FreeSlots(state, now);
  const pass: DispatchPass = { state, now, freeSlots, emit, futile: Number.POSITIVE_INFINITY };
  if (state.policy.backfilling !== 'none') {
    startExactFits(pass);
  }
  // Bookings are made anew in the queue's order; those for which an image was sent to certain hosts stay.
  for (const record of state.queue) {
    if (record.allocations.length > 0 && record.transferUntil === null && !isStaged(record) && record.phase !== 'migrating') {
      unbook(pass, record);
    }
  }
  const bookings = state.policy.backfilling === 'conservative' ? Number.POSITIVE_INFINITY : 1;
  let booked = 0;
  let blocked = false; // without backfilling: by the first that waits, for all but those whose place is kept already
  for (const record of state.queue.slice(0, backfillDepth)) {
    if (record.transferUntil !== null || record.phase === 'migrating') continue;
    if (blocked && !isStaged(record)) continue;
    if (booked >= bookings && record.allocations.length === 0 && freeSlots.isEmpty(record.shape)) {
      if (state.policy.images === null) break;
      continue; // those whose image was sent are further down, with their place kept
    }
    if (record.allocations.length > 0) unbook(pass, record);
    if (tryStart(pass, record)) continue;
    const staged = isStaged(record);
    if ((staged || booked < bookings) && book(pass, record) && !staged) booked++;
    if (state.policy.backfilling === 'none') blocked = true;
  }
  // Only what nobody can use at once is worth the wait for a migration.
  for (const record of state.queue.slice(0, backfillDepth)) {
    if (freeSlots.isEmpty(record.shape)) continue;
    if (record.phase === 'suspended') migrateSuspended(state, record, now, freeSlots, emit);
  }
}

/**
 * Before all others, work that fills the time before a reservation almost exactly: what is left idle then is less than
 * suspending and resuming somebody longer would take. Nobody's booking is delayed by it.
 */
function startExactFits(pass: DispatchPass): void {
  const { state, freeSlots: openings } = pass;
  const tried = state.queue.slice(0, exactFitDepth).filter((record) => isSingleVm(record));
  for (const record of tried) {
    if (record.allocations.length === 0 && openings.isEmpty(record.shape)) continue;
    const booking = record.allocations;
    if (booking.length > 0) unbook(pass, record);
    const hosts = record.phase === 'suspended' ? record.hosts : openings.hostsWithSlots(record.shape);
    const fitting = hosts.find((host) => fitsExactly(pass, record, host));
    if (fitting !== undefined) launch(pass, record, [fitting]);
    else if (booking.length > 0) {
      setAllocations(state, record, 'booking', booking);
      for (const { host } of booking) openings.refreshHost(host);
    }
  }
}

/** Its own copy of the image waits for it on certain hosts. */
function isStaged(record: LeaseRecord): boolean {
  return record.phase === 'waiting' && record.imageCopies.length > 0;
}

function isSingleVm(record: LeaseRecord): boolean {
  return record.lease.nodes === 1 && record.transferUntil === null && record.phase !== 'migrating';
}

function fitsExactly(pass: DispatchPass, record: LeaseRecord, host: number): boolean {
  const { state, now, freeSlots: openings } = pass;
  const until = openings.onHost(host, record.shape)[0]?.booked ?? now;
  const idle = until - now - totalS(state, record, host, 1);
  if (idle < 0 || until === Number.POSITIVE_INFINITY) return false;
  if (idle > exactFitToleranceS(state, record, host)) return false;
  if (record.phase !== 'suspended') return hasImage(state, record, host, now);
  return state.hosts[host]!.up && memoryOpsEndAt(state, host, now) <= now && leavesTimeToPreempt(pass, record, host, 1);
}

function exactFitToleranceS(state: PlanState, record: LeaseRecord, host: number): number {
  return state.policy.suspension ? 3 * memoryOpS(state, host, record.shape) : exactFitWithoutSuspensionS;
}

interface DispatchPass {
  state: PlanState;
  now: number;
  freeSlots: FreeSlots;
  emit: (action: Action) => void;
  /** Work this long and longer can't be helped by repacking in this pass. */
  futile: number;
}

function tryStart(pass: DispatchPass, record: LeaseRecord): boolean {
  const hosts = record.phase === 'suspended' ? placeResumed(pass, record) : placeNew(pass, record);
  if (hosts === null) return false;
  launch(pass, record, hosts);
  return true;
}

/** Suspended work goes on where its memory is. */
function placeResumed(pass: DispatchPass, record: LeaseRecord): number[] | null {
  const { state, now, freeSlots: openings } = pass;
  if (record.hosts.some((host) => openings.onHost(host, record.shape).length === 0)) return null;
  const counts = countByHost(record.hosts);
  const need = Math.max(...[...counts].map(([host, vms]) => startupS(state, record, host, vms))) + record.remainingWorkS;
  for (const [host, vms] of counts) {
    if (!state.hosts[host]!.up || memoryOpsEndAt(state, host, now) > now || !leavesTimeToPreempt(pass, record, host, vms))
      return null;
    const slot = pass.freeSlots.onHost(host, record.shape)[vms - 1];
    if (slot === undefined) return null;
    if (slot.booked >= now + need) continue;
    if (!isPreemptible(pass, record, host, vms, slot)) return null;
  }
  return record.hosts;
}

/** A resume must not be in the way of the suspends that a promise on this host needs. */
function leavesTimeToPreempt(pass: DispatchPass, record: LeaseRecord, host: number, vms: number): boolean {
  const { state, now } = pass;
  const overloaded = state.timeline.planned[host]!.freeUntil(now, record.shape, 0);
  return earliestVacantAt(state, host, now) + startupS(state, record, host, vms) <= overloaded - state.policy.marginS;
}

function isPreemptible(
  pass: DispatchPass,
  record: LeaseRecord,
  host: number,
  vms: number,
  slot: { booked: number; planned: number },
): boolean {
  const { state, now } = pass;
  if (!state.policy.suspension || !record.preemptible || slot.booked < slot.planned) return false;
  return slot.planned - now >= minWorthwhileS(state, record, host, vms, now);
}

/** New work: where all of it fits, as tightly as possible; else by moving reservations; else where it is cut latest. */
function placeNew(pass: DispatchPass, record: LeaseRecord): number[] | null {
  const { state, now, freeSlots: openings } = pass;
  const { nodes } = record.lease;
  if (openings.total(record.shape) < nodes) return null;
  const ready = openings.hostsWithSlots(record.shape).filter((host) => hasImage(state, record, host, now));
  const uncut: { host: number; vms: number; until: number }[] = [];
  const preempted: { host: number; until: number }[] = [];
  for (const host of ready) {
    const slots = openings.onHost(host, record.shape);
    const end = now + totalS(state, record, host, 1);
    let vms = 0;
    while (vms < slots.length && slots[vms]!.booked >= end) vms++;
    if (vms > 0) uncut.push({ host, vms, until: slots[vms - 1]!.booked });
    for (const [i, lane] of slots.entries()) {
      if (i < vms || isPreemptible(pass, record, host, i + 1, lane)) preempted.push({ host, until: lane.planned });
    }
  }
  const fit = tightestFit(uncut, nodes);
  if (fit !== null) return fit;
  if (!state.policy.suspension || !record.preemptible) return repackForStart(pass, record, ready);
  if (preempted.length < nodes) return null;
  preempted.sort((a, b) => b.until - a.until || a.host - b.host);
  return preempted.slice(0, nodes).map(({ host }) => host);
}

function tightestFit(uncut: { host: number; vms: number; until: number }[], nodes: number): number[] | null {
  if (nodes === 1) {
    let best = uncut[0];
    for (const option of uncut) if (option.until < best!.until) best = option;
    return best === undefined ? null : [best.host];
  }
  uncut.sort((a, b) => a.until - b.until || a.host - b.host);
  const hosts: number[] = [];
  for (const { host, vms } of uncut) {
    for (let i = 0; i < vms && hosts.length < nodes; i++) hosts.push(host);
  }
  return hosts.length === nodes ? hosts : null;
}

/** Exchanges the hosts of reservations, so that single-VM work that can't be cut fits after all. */
function repackForStart(pass: DispatchPass, record: LeaseRecord, ready: readonly number[]): number[] | null {
  const { state, now, freeSlots: openings } = pass;
  if (record.lease.nodes > 1 || ready.length === 0 || state.hosts.length > maxRepackHosts) return null;
  const need = record.remainingWorkS + leadTimeS(state, record);
  if (need >= pass.futile || openings.availableUntil(record.shape) < now + need) return null;
  let host = ready[0]!;
  for (const other of ready) {
    if (openings.onHost(other, record.shape)[0]!.booked > openings.onHost(host, record.shape)[0]!.booked) host = other;
  }
  setAllocations(state, record, record.preemptible ? 'running' : 'promise', allocationsOn([host], now, now + need));
  if (repack(state, [], now, { displacing: false, weighImages: false, guest: record })) {
    openings.invalidate();
    return [host];
  }
  setAllocations(state, record, 'running', []);
  pass.futile = need;
  return null;
}

/** Sets work in motion on its hosts. */
function launch(pass: DispatchPass, record: LeaseRecord, hosts: number[]): void {
  const { state, now } = pass;
  const resumed = record.phase === 'suspended';
  const ids = hosts.map((host) => state.hosts[host]!.spec.id);
  removeFrom(state.queue, record);
  record.hosts = hosts;
  record.bound = true;
  if (!resumed) record.backingImageHosts = hosts;
  let workFrom = now + leadTimeS(state, record);
  const vms = [];
  if (resumed) {
    workFrom = now;
    for (const [vm, host] of hosts.entries()) {
      const from = memoryOpsEndAt(state, host, now);
      const until = from + memoryOpS(state, host, record.shape);
      state.hosts[host]!.memoryOps.push({ from, until });
      vms.push({ vm, host: ids[vm]!, fromS: from, untilS: until });
      workFrom = Math.max(workFrom, until);
    }
  }
  record.phase = resumed ? 'resuming' : 'running';
  record.runFrom = workFrom;
  record.operation = { from: now, planned: workFrom, until: workFrom };
  state.underway.add(record);
  record.expectedEnd = workFrom + record.remainingWorkS;
  setAllocations(state, record, record.preemptible ? 'running' : 'promise', allocationsOn(hosts, now, record.expectedEnd));
  if (record.preemptible) {
    for (const host of hosts) state.preemptibleByHost[host]!.add(record);
    for (const host of new Set(hosts)) updateSuspendAllS(state, host);
  }
  markImageUsed(state, record, now);
  for (const host of hosts) pass.freeSlots.refreshHost(host);
  const common = { lease: record.lease.id, fromS: now, workFromS: workFrom, untilS: record.expectedEnd };
  pass.emit(resumed ? { kind: 'resume', ...common, vms } : { kind: 'start', ...common, hosts: ids });
}

function unbook(pass: DispatchPass, record: LeaseRecord): void {
  const before = record.allocations;
  setAllocations(pass.state, record, 'booking', []);
  for (const { host } of before) pass.freeSlots.refreshHost(host);
}

/** Keeps the earliest place for work that is ready but has no room now. */
function book(pass: DispatchPass, record: LeaseRecord): boolean {
  const { state, now } = pass;
  const place = earliestFit(state, record, now, hostsWithImage(state, record, now));
  if (place === null) return false;
  setAllocations(state, record, 'booking', allocationsOn(place.hosts, place.from, place.to));
  for (const host of place.hosts) pass.freeSlots.refreshHost(host);
  return true;
}
