import type { Action } from './actions.ts';
import {
  claimsOn,
  enqueue,
  type LeaseRecord,
  type PlanState,
  rankOf,
  reckonVacating,
  removeFrom,
  setClaims,
  workOf,
} from './state.ts';

/** What becomes of a lease's record when something happened to it. */

/** How much later the end of an overdue suspend, resume or migration is expected, each time it has not come. */
const patienceS = 5;
/** A host that was this much slower than planned is not made out to be slower still, and not all at once. */
const slowestRatio = 16;
const slowestStep = 3;

export function leaveHosts(state: PlanState, record: LeaseRecord): void {
  for (const host of record.hosts) if (state.residents[host]!.delete(record)) reckonVacating(state, host);
}

/** All that was done is lost: it waits to start anew. */
export function requeue(state: PlanState, record: LeaseRecord): void {
  leaveHosts(state, record);
  removeFrom(state.queue, record);
  state.underway.delete(record);
  setClaims(state, record, 'running', []);
  record.phase = 'waiting';
  record.workS = workOf(record.lease, state.policy);
  record.rank = rankOf(record.lease, record.workS, state.policy);
  record.hosts = [];
  record.bound = false;
  record.copies = [];
  record.basedOn = [];
  enqueue(state, record);
}

export function end(state: PlanState, record: LeaseRecord): void {
  leaveHosts(state, record);
  setClaims(state, record, 'running', []);
  removeFrom(state.queue, record);
  removeFrom(state.upcoming, record);
  state.underway.delete(record);
  record.phase = 'ended';
  state.leases.delete(record.lease.id);
}

export function suspended(state: PlanState, record: LeaseRecord, now: number): void {
  learn(state, record, now);
  setClaims(state, record, 'running', []);
  state.underway.delete(record);
  record.phase = 'suspended';
  record.rank = rankOf(record.lease, record.workS, state.policy);
  enqueue(state, record);
}

export function resumed(state: PlanState, record: LeaseRecord, now: number): void {
  learn(state, record, now);
  record.phase = 'running';
  record.runFrom = now;
  record.expectedEnd = now + record.workS;
  setClaims(state, record, record.layer, claimsOn(record.hosts, now, record.expectedEnd));
}

/**
 * Later plans allow for a host that was slower than planned, and forget it again. Who was to carry the operation out may
 * have been away meanwhile, so one of them says only so much.
 */
function learn(state: PlanState, record: LeaseRecord, now: number): void {
  const { from, planned } = record.operation;
  const ratio = (now - from) / Math.max(1, planned - from);
  for (const index of new Set(record.hosts)) {
    const host = state.hosts[index]!;
    const step = ratio > 1 ? Math.min(slowestStep, ratio) : 0.75 + 0.25 * ratio;
    host.slowness = Math.min(slowestRatio, Math.max(1, host.slowness * step));
    host.ops = host.ops.filter((op) => op.until > now);
    reckonVacating(state, index);
  }
}

/**
 * What should be over and isn't: a lease's time is up, and its VMs go; an operation is late, and the hosts stay taken.
 */
export function settleOverdue(state: PlanState, now: number, emit: (action: Action) => void): void {
  for (const record of state.underway) {
    if (record.phase === 'running' && record.expectedEnd <= now) {
      end(state, record);
      emit({ do: 'stop', lease: record.lease.id, atS: now, reason: 'lease-over' });
    } else if (record.phase === 'suspending' || record.phase === 'resuming') {
      if (record.operation.until <= now) extend(state, record, now);
    }
  }
}

function extend(state: PlanState, record: LeaseRecord, now: number): void {
  const until = now + patienceS;
  for (const host of new Set(record.hosts)) state.hosts[host]!.ops.push({ from: now, until });
  if (record.phase === 'resuming') record.expectedEnd = until + record.workS;
  setClaims(state, record, record.layer, claimsOn(record.hosts, now, record.phase === 'resuming' ? record.expectedEnd : until));
  record.operation.until = until;
}
