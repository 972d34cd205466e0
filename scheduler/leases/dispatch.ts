import type { EmitAction } from './actions.ts';
import { earliestFit, hostsWithImage, totalS } from './capacity/earliest-fit.ts';
import { FreeSlots } from './capacity/free-slots.ts';
import { migrateSuspended } from './migrate-suspended.ts';
import { allocationsOn, type LeaseRecord, memoryOpS, memoryOpsEndAt, type PlanState, setAllocations } from './plan-state.ts';
import { type DispatchPass, launch, leavesTimeToPreempt, placeNew, placeResumed } from './start-work.ts';

/** How many leases of the queue one pass tries to start. */
const backfillDepth = 1000;
/** How many leases of the queue are tried for an exact fit. */
const exactFitDepth = 64;
const exactFitWithoutSuspensionS = 45;

/**
 * Starts and resumes best-effort work that fits now, in the queue's order. Work that does not fit is overtaken if the policy
 * allows; the first such lease (aggressive) or each (conservative) gets a booking that no later lease may delay.
 */
export function dispatch(state: PlanState, now: number, emit: EmitAction): void {
  const { images } = state;
  const freeSlots = new FreeSlots(state, now);
  const pass: DispatchPass = { state, now, freeSlots, emit, futile: Number.POSITIVE_INFINITY };
  if (state.policy.backfilling !== 'none') {
    startExactFits(pass);
  }
  // Bookings are made anew in the queue's order, except those on hosts to which the lease's image was sent.
  for (const record of state.queue) {
    if (record.allocations.length > 0 && !images.isAwaited(record) && !images.isStaged(record) && record.phase !== 'migrating') {
      unbook(pass, record);
    }
  }
  const bookings = state.policy.backfilling === 'conservative' ? Number.POSITIVE_INFINITY : 1;
  let booked = 0;
  let blocked = false; // without backfilling: by the first lease that waits, for all but those with a booking for their image
  for (const record of state.queue.slice(0, backfillDepth)) {
    if (images.isAwaited(record) || record.phase === 'migrating') continue;
    if (blocked && !images.isStaged(record)) continue;
    if (booked >= bookings && record.allocations.length === 0 && freeSlots.isEmpty(record.shape)) {
      if (images.areInPlace) break;
      continue; // leases whose image was sent are further down, with their booking
    }
    if (record.allocations.length > 0) unbook(pass, record);
    if (tryStart(pass, record)) continue;
    const staged = images.isStaged(record);
    if ((staged || booked < bookings) && book(pass, record) && !staged) booked++;
    if (state.policy.backfilling === 'none') blocked = true;
  }
  // Last, as a migration delays the use of the capacity that it takes.
  for (const record of state.queue.slice(0, backfillDepth)) {
    if (freeSlots.isEmpty(record.shape)) continue;
    if (record.phase === 'suspended') migrateSuspended(state, record, now, freeSlots, emit);
  }
}

/**
 * First starts work that fills the time before a reservation almost exactly: the remaining idle time is less than to suspend
 * and resume a longer lease would take. It delays no booking.
 */
function startExactFits(pass: DispatchPass): void {
  const { state, freeSlots } = pass;
  // What pays by offers, or has rules, is placed by its costs.
  const tried = state.queue
    .slice(0, exactFitDepth)
    .filter((record) => record.lease.hostCosts == null && isSingleVm(state, record));
  for (const record of tried) {
    if (record.allocations.length === 0 && freeSlots.isEmpty(record.shape)) continue;
    const booking = record.allocations;
    if (booking.length > 0) unbook(pass, record);
    const hosts = record.phase === 'suspended' ? record.hosts : freeSlots.hostsWithSlots(record.shape);
    const fitting = hosts.find((host) => fitsExactly(pass, record, host));
    if (fitting !== undefined) launch(pass, record, [fitting]);
    else if (booking.length > 0) {
      setAllocations(state, record, 'booking', booking);
      for (const { host } of booking) freeSlots.refreshHost(host);
    }
  }
}

function isSingleVm(state: PlanState, record: LeaseRecord): boolean {
  return record.lease.nodes === 1 && !state.images.isAwaited(record) && record.phase !== 'migrating';
}

function fitsExactly(pass: DispatchPass, record: LeaseRecord, host: number): boolean {
  const { state, now, freeSlots } = pass;
  const until = freeSlots.onHost(host, record.shape)[0]?.booked ?? now;
  const idle = until - now - totalS(state, record, host, 1);
  if (idle < 0 || until === Number.POSITIVE_INFINITY) return false;
  if (idle > exactFitToleranceS(state, record, host)) return false;
  if (record.phase !== 'suspended') return state.images.isAtHost(record, host, now);
  return state.hosts[host]!.up && memoryOpsEndAt(state, host, now) <= now && leavesTimeToPreempt(pass, record, host, 1);
}

function exactFitToleranceS(state: PlanState, record: LeaseRecord, host: number): number {
  return state.policy.suspension ? 3 * memoryOpS(state, host, record.shape) : exactFitWithoutSuspensionS;
}

function tryStart(pass: DispatchPass, record: LeaseRecord): boolean {
  const hosts = record.phase === 'suspended' ? placeResumed(pass, record) : placeNew(pass, record);
  if (hosts === null) return false;
  launch(pass, record, hosts);
  return true;
}

function unbook(pass: DispatchPass, record: LeaseRecord): void {
  const before = record.allocations;
  setAllocations(pass.state, record, 'booking', []);
  for (const { host } of before) pass.freeSlots.refreshHost(host);
}

/** Books the earliest fit for work that is ready but does not fit now. */
function book(pass: DispatchPass, record: LeaseRecord): boolean {
  const { state, now } = pass;
  // A fit is found for VMs that may run on any host.
  if (record.lease.relation != null && record.lease.nodes > 1) return false;
  const fit = earliestFit(state, record, now, hostsWithImage(state, record, now));
  if (fit === null) return false;
  setAllocations(state, record, 'booking', allocationsOn(fit.hosts, fit.from, fit.to));
  for (const host of fit.hosts) pass.freeSlots.refreshHost(host);
  return true;
}
