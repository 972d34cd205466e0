import type { Action } from './actions.ts';
import { bind } from './binding.ts';
import { leaveHosts, requeue } from './lifecycle.ts';
import {
  beginsAt,
  bootOf,
  claimsOn,
  hasImage,
  type LeaseRecord,
  type PlanState,
  removeFrom,
  setClaims,
  vacatableAt,
} from './state.ts';
import { displacements } from './vacate.ts';

/** What the reservations make due: their hosts are made final, whoever is there gives way, they begin. */

/** Hosts are made final early enough to vacate any of them. */
function bindAt(state: PlanState, record: LeaseRecord, now: number): number {
  let longest = 0;
  for (let host = 0; host < state.hosts.length; host++) {
    longest = Math.max(longest, vacatableAt(state, host, now) - now);
  }
  return beginsAt(state, record) - state.policy.marginS - longest;
}

/** When the next reservation's hosts must be made final. */
export function nextToBind(state: PlanState, now: number): number {
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

export function displaceDue(state: PlanState, now: number, emit: (action: Action) => void): void {
  for (const { record, at, ops } of displacements(state)) {
    if (at > now) continue;
    if (!state.policy.suspension) {
      requeue(state, record);
      emit({ do: 'stop', lease: record.lease.id, atS: now, reason: 'displaced' });
      continue;
    }
    record.workS -= Math.max(0, now - record.runFrom);
    record.phase = 'suspending';
    leaveHosts(state, record);
    setClaims(
      state,
      record,
      'running',
      ops.map(({ host, until }) => ({ host, from: now, to: until })),
    );
    for (const { host, from, until } of ops) state.hosts[host]!.ops.push({ from, until });
    const until = Math.max(...ops.map((op) => op.until));
    record.operation = { from: now, planned: until, until };
    const vms = ops
      .map(({ vm, host, from, until }) => ({ vm, host: state.hosts[host]!.spec.id, fromS: from, untilS: until }))
      .sort((a, b) => a.vm - b.vm);
    emit({ do: 'suspend', lease: record.lease.id, fromS: now, untilS: until, vms });
  }
}

/** A reservation that is late, for hosts that were slow to be vacated or lost, begins as soon as it can. */
export function beginDue(state: PlanState, now: number, emit: (action: Action) => void): void {
  for (const record of [...state.upcoming]) {
    if (beginsAt(state, record) > now) return;
    if (!isReady(state, record, now)) continue;
    removeFrom(state.upcoming, record);
    record.phase = 'running';
    record.basedOn = record.hosts;
    record.runFrom = now + bootOf(state, record);
    record.expectedEnd = record.runFrom + record.workS;
    state.underway.add(record);
    setClaims(state, record, 'promise', claimsOn(record.hosts, now, record.expectedEnd));
    if (record.expectedEnd > record.promise!.endAt && isInTheWay(state, record)) {
      record.expectedEnd = Math.max(now + 1, record.promise!.endAt);
      setClaims(state, record, 'promise', claimsOn(record.hosts, now, record.expectedEnd));
    }
    const hosts = record.hosts.map((host) => state.hosts[host]!.spec.id);
    const times = { fromS: now, workFromS: record.runFrom, untilS: record.expectedEnd };
    emit({ do: 'start', lease: record.lease.id, hosts, ...times });
  }
}

/** Whether a late reservation, with all of its time, would take from another's. */
function isInTheWay(state: PlanState, record: LeaseRecord): boolean {
  return record.hosts.some(
    (host) => state.timeline.promised[host]!.freeUntil(record.runFrom, record.shape, 0) < record.expectedEnd,
  );
}

function isReady(state: PlanState, record: LeaseRecord, now: number): boolean {
  return record.hosts.every(
    (host) => hasImage(state, record, host, now) && state.timeline.planned[host]!.freeUntil(now, record.shape, 0) > now,
  );
}
