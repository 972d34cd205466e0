import { assignProvisionalHosts, repack } from './host-binding.ts';
import { endLease, requeue } from './lease-lifecycle.ts';
import { type LeaseRecord, type PlanState, setAllocations } from './plan-state.ts';

/** Hosts that are lost, come back, or are to be emptied. Promises are moved to other hosts where that can be done. */

function indexOf(state: PlanState, id: string): number {
  return state.hosts.findIndex((host) => host.spec.id === id);
}

/**
 * A host is gone with everything on it. What ran there starts anew; reservations that have not begun get other hosts;
 * those for which there are none, and those that ran there, are broken, and that is said.
 */
export function loseHost(state: PlanState, id: string, now: number): void {
  const index = indexOf(state, id);
  if (index < 0) return;
  const host = state.hosts[index]!;
  host.up = false;
  host.memoryOps = [];
  host.cache = [];
  if (state.transfer !== null) state.transfer.hosts = state.transfer.hosts.filter((each) => each !== index);
  const affected = [...state.leases.values()].filter(
    (record) => record.hosts.includes(index) || record.imageCopies.includes(index),
  );
  for (const record of affected) {
    record.imageCopies = record.imageCopies.filter((each) => each !== index);
    if (record.promise === null) requeueLost(state, record, now);
    else if (record.phase === 'waiting') moveOrBreak(state, record, now);
    else breakPromise(state, record, now, `${id} was lost while it ran`);
  }
}

function requeueLost(state: PlanState, record: LeaseRecord, now: number): void {
  if (record.phase !== 'waiting')
    state.pendingActions.push({ kind: 'stop', lease: record.lease.id, atS: now, reason: 'host-lost' });
  requeue(state, record);
}

function moveOrBreak(state: PlanState, record: LeaseRecord, now: number): void {
  record.bound = false;
  setAllocations(state, record, 'promise', []);
  if (!assignProvisionalHosts(state, record, now)) breakPromise(state, record, now, 'no other hosts have room for it');
}

function breakPromise(state: PlanState, record: LeaseRecord, now: number, reason: string): void {
  state.pendingActions.push({ kind: 'breakPromise', lease: record.lease.id, atS: now, reason });
  endLease(state, record);
}

/** The host takes work again; nothing is known to be left on it. */
export function restoreHost(state: PlanState, id: string): void {
  const index = indexOf(state, id);
  if (index >= 0) state.hosts[index]!.up = true;
}

export type HostDrainDecision =
  | { accepted: true }
  /** Promises and work that may not be preempted, which would still be on the host and can't be had elsewhere. */
  | { accepted: false; inTheWay: string[] };

/**
 * Keeps a host free over [from, until): reservations that have not begun go elsewhere, best-effort work is suspended
 * in time (or stopped). Refused, with nothing changed, when a promise could not be kept then.
 */
export function drainHost(state: PlanState, id: string, from: number, until: number, now: number): HostDrainDecision {
  const index = indexOf(state, id);
  const host = state.hosts[index];
  if (host === undefined || !(from < until)) return { accepted: false, inTheWay: [] };
  undrainHost(state, id);
  const there = [...state.leases.values()].filter(
    (record) =>
      record.layer === 'promise' &&
      record.allocations.some((claim) => claim.host === index && claim.from < until && claim.to > from),
  );
  const fixed = there.filter((record) => record.phase !== 'waiting' || record.bound);
  if (fixed.length > 0) return { accepted: false, inTheWay: fixed.map((record) => record.lease.id) };
  state.timeline.add('promise', [{ host: index, from, to: until }], host.capacity, 1);
  host.drain = { from, until };
  if (there.length === 0 || repack(state, there, now, { displacing: true, weighImages: false })) return { accepted: true };
  undrainHost(state, id);
  return { accepted: false, inTheWay: there.map((record) => record.lease.id) };
}

export function undrainHost(state: PlanState, id: string): void {
  const index = indexOf(state, id);
  const host = state.hosts[index];
  if (host === undefined || host.drain === null) return;
  state.timeline.add('promise', [{ host: index, from: host.drain.from, to: host.drain.until }], host.capacity, -1);
  host.drain = null;
}
