import type { EmitAction } from './actions.ts';
import { bind } from './host-binding.ts';
import { requeue, unregisterPreemptible } from './lease-lifecycle.ts';
import {
  allocationsOn,
  earliestVacantAt,
  type LeaseRecord,
  leadTimeS,
  type PlanState,
  removeFrom,
  setAllocations,
  vmStartAt,
} from './plan-state.ts';
import { plannedPreemptions } from './preemption.ts';

/** What reservations make due: their hosts become final, work on these is preempted, their VMs start. */

/** When a reservation's hosts must be final: early enough to vacate any host. */
function bindAt(state: PlanState, record: LeaseRecord, now: number): number {
  let longest = 0;
  for (let host = 0; host < state.hosts.length; host++) {
    longest = Math.max(longest, earliestVacantAt(state, host, now) - now);
  }
  return vmStartAt(state, record) - state.policy.marginS - longest;
}

/** When the hosts of the next reservation must be final; Infinity: all are. */
export function nextBindAt(state: PlanState, now: number): number {
  const next = state.upcoming.find((record) => !record.bound);
  return next === undefined ? Number.POSITIVE_INFINITY : bindAt(state, next, now);
}

export function bindDue(state: PlanState, now: number): void {
  for (const record of state.upcoming) {
    if (record.bound) continue;
    if (bindAt(state, record, now) > now) return;
    bind(state, record, now);
  }
}

export function preemptDue(state: PlanState, now: number, emit: EmitAction): void {
  for (const { record, at, ops } of plannedPreemptions(state)) {
    if (at > now) continue;
    if (!state.policy.suspension) {
      requeue(state, record);
      emit({ kind: 'stop', lease: record.lease.id, atS: now, reason: 'displaced' });
      continue;
    }
    record.remainingWorkS -= Math.max(0, now - record.runFrom);
    record.phase = 'suspending';
    unregisterPreemptible(state, record);
    setAllocations(
      state,
      record,
      'running',
      ops.map(({ host, until }) => ({ host, from: now, to: until })),
    );
    for (const { host, from, until } of ops) state.hosts[host]!.memoryOps.push({ from, until });
    const until = Math.max(...ops.map((op) => op.until));
    record.operation = { from: now, planned: until, until };
    const vms = ops
      .map(({ vm, host, from, until }) => ({ vm, host: state.hosts[host]!.spec.id, fromS: from, untilS: until }))
      .sort((a, b) => a.vm - b.vm);
    emit({ kind: 'suspend', lease: record.lease.id, fromS: now, untilS: until, vms });
  }
}

/** Starts reservations. One whose hosts were vacated late, or lost, starts as soon as its hosts are ready. */
export function startDue(state: PlanState, now: number, emit: EmitAction): void {
  for (const record of [...state.upcoming]) {
    if (vmStartAt(state, record) > now) return;
    if (!isReady(state, record, now)) continue;
    removeFrom(state.upcoming, record);
    record.phase = 'running';
    state.images.onCreated(record);
    record.runFrom = now + leadTimeS(state, record);
    record.expectedEnd = record.runFrom + record.remainingWorkS;
    state.underway.add(record);
    setAllocations(state, record, 'promise', allocationsOn(record.hosts, now, record.expectedEnd));
    if (record.expectedEnd > record.promise!.endAt && delaysOtherPromises(state, record)) {
      record.expectedEnd = Math.max(now + 1, record.promise!.endAt);
      setAllocations(state, record, 'promise', allocationsOn(record.hosts, now, record.expectedEnd));
    }
    const hosts = record.hosts.map((host) => state.hosts[host]!.spec.id);
    const times = { fromS: now, workFromS: record.runFrom, untilS: record.expectedEnd };
    emit({ kind: 'start', lease: record.lease.id, hosts, ...times });
  }
}

/** Whether a late reservation with its whole duration would use time that is promised to another. */
function delaysOtherPromises(state: PlanState, record: LeaseRecord): boolean {
  return record.hosts.some(
    (host) => state.timeline.promised[host]!.freeUntil(record.runFrom, record.shape, 0) < record.expectedEnd,
  );
}

function isReady(state: PlanState, record: LeaseRecord, now: number): boolean {
  return record.hosts.every(
    (host) => state.images.isAtHost(record, host, now) && state.timeline.planned[host]!.freeUntil(now, record.shape, 0) > now,
  );
}
