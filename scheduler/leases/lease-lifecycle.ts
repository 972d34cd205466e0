import type { EmitAction } from './actions.ts';
import {
  allocationsOn,
  enqueue,
  type LeaseRecord,
  type PlanState,
  plannedWorkS,
  rankOf,
  removeFrom,
  setAllocations,
  updateSuspendAllS,
} from './plan-state.ts';

/** Changes of a lease's record when something happened to the lease. */

/** By how much the expected end of an overdue suspend or resume is postponed, each time. */
const overdueExtensionS = 5;
/** The largest slowness of a host, and the largest factor by which one operation changes it. */
const maxSlowness = 16;
const maxSlownessFactor = 3;

export function unregisterPreemptible(state: PlanState, record: LeaseRecord): void {
  for (const host of record.hosts) if (state.preemptibleByHost[host]!.delete(record)) updateSuspendAllS(state, host);
}

/** The work done so far is lost; the lease waits to start anew. */
export function requeue(state: PlanState, record: LeaseRecord): void {
  unregisterPreemptible(state, record);
  removeFrom(state.queue, record);
  state.underway.delete(record);
  setAllocations(state, record, 'running', []);
  record.phase = 'waiting';
  record.remainingWorkS = plannedWorkS(record.lease, state.policy);
  record.rank = rankOf(record.lease, record.remainingWorkS, state.policy);
  record.hosts = [];
  record.bound = false;
  state.images.onRequeued(record);
  enqueue(state, record);
}

export function endLease(state: PlanState, record: LeaseRecord): void {
  unregisterPreemptible(state, record);
  setAllocations(state, record, 'running', []);
  removeFrom(state.queue, record);
  removeFrom(state.upcoming, record);
  state.underway.delete(record);
  record.phase = 'ended';
  state.leases.delete(record.lease.id);
  state.images.onEnded(record);
}

export function onSuspended(state: PlanState, record: LeaseRecord, now: number): void {
  updateSlowness(state, record, now);
  setAllocations(state, record, 'running', []);
  state.underway.delete(record);
  record.phase = 'suspended';
  record.rank = rankOf(record.lease, record.remainingWorkS, state.policy);
  enqueue(state, record);
}

export function onResumed(state: PlanState, record: LeaseRecord, now: number): void {
  updateSlowness(state, record, now);
  record.phase = 'running';
  record.runFrom = now;
  record.expectedEnd = now + record.remainingWorkS;
  setAllocations(state, record, record.layer, allocationsOn(record.hosts, now, record.expectedEnd));
}

function updateSlowness(state: PlanState, record: LeaseRecord, now: number): void {
  const { from, planned } = record.operation;
  for (const index of new Set(record.hosts)) {
    const host = state.hosts[index]!;
    host.slowness = nextSlowness(host.slowness, { fromS: from, untilS: planned }, now);
    host.memoryOps = host.memoryOps.filter((op) => op.until > now);
    updateSuspendAllS(state, index);
  }
}

/**
 * The slowness of a host after an operation that was planned for this time has ended now. Later plans are scaled by it, and it
 * decays again. The workflow that executes an operation may have been delayed for other reasons, so a single operation
 * changes it by a limited factor.
 */
export function nextSlowness(slowness: number, { fromS, untilS }: { fromS: number; untilS: number }, now: number): number {
  const ratio = (now - fromS) / Math.max(1, untilS - fromS);
  const step = ratio > 1 ? Math.min(maxSlownessFactor, ratio) : 0.75 + 0.25 * ratio;
  return Math.min(maxSlowness, Math.max(1, slowness * step));
}

/** Leases whose time is over are stopped; the hosts of late operations remain allocated. */
export function settleOverdue(state: PlanState, now: number, emit: EmitAction): void {
  for (const record of state.underway) {
    if (record.phase === 'running' && record.expectedEnd <= now) {
      endLease(state, record);
      emit({ kind: 'stop', lease: record.lease.id, atS: now, reason: 'lease-over' });
    } else if (record.phase === 'suspending' || record.phase === 'resuming') {
      if (record.operation.until <= now) extendOverdue(state, record, now);
    }
  }
}

function extendOverdue(state: PlanState, record: LeaseRecord, now: number): void {
  const until = now + overdueExtensionS;
  for (const host of new Set(record.hosts)) state.hosts[host]!.memoryOps.push({ from: now, until });
  if (record.phase === 'resuming') record.expectedEnd = until + record.remainingWorkS;
  setAllocations(
    state,
    record,
    record.layer,
    allocationsOn(record.hosts, now, record.phase === 'resuming' ? record.expectedEnd : until),
  );
  record.operation.until = until;
}
