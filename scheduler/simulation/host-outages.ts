import { assignProvisionalHosts, repack } from '../leases/host-binding.ts';
import { endLease, requeue } from '../leases/lease-lifecycle.ts';
import { type LeaseRecord, type PlanState, setAllocations } from '../leases/plan-state.ts';
import type { EmitSimulated } from './actions.ts';
import type { ImageStore } from './images/image-store.ts';

/**
 * Hosts that are lost, return, or are drained for planned maintenance. Promises move to other hosts where possible. A
 * site derives the same from the ledger's rows, from which it makes each plan.
 */

function indexOf(state: PlanState, id: string): number {
  return state.hosts.findIndex((host) => host.spec.id === id);
}

/**
 * A host is lost with everything on it. Best-effort work there starts anew; reservations that have not started get other
 * hosts; promises without other hosts, and those that ran there, are broken.
 */
export function loseHost(state: PlanState, images: ImageStore | null, id: string, now: number, emit: EmitSimulated): void {
  const index = indexOf(state, id);
  if (index < 0) return;
  const host = state.hosts[index]!;
  host.up = false;
  host.memoryOps = [];
  const hasCopy = (record: LeaseRecord) => images?.of(record).copies.includes(index) === true;
  const affected = [...state.leases.values()].filter((record) => record.hosts.includes(index) || hasCopy(record));
  images?.loseHost(index);
  for (const record of affected) {
    if (record.promise === null) requeueLost(state, record, now, emit);
    else if (record.phase === 'waiting') moveOrBreak(state, record, now, emit);
    else breakPromise(state, record, now, `${id} was lost while it ran`, emit);
  }
}

function requeueLost(state: PlanState, record: LeaseRecord, now: number, emit: EmitSimulated): void {
  if (record.phase !== 'waiting') emit({ kind: 'stop', lease: record.lease.id, atS: now, reason: 'host-lost' });
  requeue(state, record);
}

function moveOrBreak(state: PlanState, record: LeaseRecord, now: number, emit: EmitSimulated): void {
  record.bound = false;
  setAllocations(state, record, 'promise', []);
  if (!assignProvisionalHosts(state, record, now)) breakPromise(state, record, now, 'it fits on no other hosts', emit);
}

function breakPromise(state: PlanState, record: LeaseRecord, now: number, reason: string, emit: EmitSimulated): void {
  emit({ kind: 'breakPromise', lease: record.lease.id, atS: now, reason });
  endLease(state, record);
}

/** The host takes work again; it is empty. */
export function restoreHost(state: PlanState, id: string): void {
  const index = indexOf(state, id);
  if (index >= 0) state.hosts[index]!.up = true;
}

export type HostDrainDecision =
  | { accepted: true }
  /** Promises and work that may not be preempted, for which there are no other hosts. */
  | { accepted: false; inTheWay: string[] };

/**
 * Keeps a host free over [from, until): reservations that have not started get other hosts, best-effort work is suspended
 * (or stopped) in time. Refused, with nothing changed, if a promise could not be kept.
 */
export function drainHost(state: PlanState, id: string, from: number, until: number, now: number): HostDrainDecision {
  const index = indexOf(state, id);
  const host = state.hosts[index];
  if (host === undefined || !(from < until)) return { accepted: false, inTheWay: [] };
  undrainHost(state, id);
  const overlapping = [...state.leases.values()].filter(
    (record) =>
      record.layer === 'promise' &&
      record.allocations.some((allocation) => allocation.host === index && allocation.from < until && allocation.to > from),
  );
  const fixed = overlapping.filter((record) => record.phase !== 'waiting' || record.bound);
  if (fixed.length > 0) return { accepted: false, inTheWay: fixed.map((record) => record.lease.id) };
  state.timeline.add('promise', [{ host: index, from, to: until }], host.capacity, 1);
  host.drain = { from, until };
  if (overlapping.length === 0 || repack(state, overlapping, now, { mayPreempt: true, preferCachedImages: false }))
    return { accepted: true };
  undrainHost(state, id);
  return { accepted: false, inTheWay: overlapping.map((record) => record.lease.id) };
}

function undrainHost(state: PlanState, id: string): void {
  const index = indexOf(state, id);
  const host = state.hosts[index];
  if (host === undefined || host.drain === null) return;
  state.timeline.add('promise', [{ host: index, from: host.drain.from, to: host.drain.until }], host.capacity, -1);
  host.drain = null;
}
