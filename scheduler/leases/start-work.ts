import type { EmitAction } from './actions.ts';
import { countByHost, minWorthwhileS, startupS, totalS } from './capacity/earliest-fit.ts';
import type { FreeSlots, Slot } from './capacity/free-slots.ts';
import { repack } from './host-binding.ts';
import {
  allocationsOn,
  earliestVacantAt,
  hostCost,
  type LeaseRecord,
  leadTimeS,
  mayUse,
  memoryOpS,
  memoryOpsEndAt,
  type PlanState,
  removeFrom,
  setAllocations,
  updateSuspendAllS,
} from './plan-state.ts';

/** Repacking reservations for a start is for sites up to this size; larger ones have capacity on other hosts. */
const maxRepackHosts = 64;

/** One pass over the queue. */
export interface DispatchPass {
  state: PlanState;
  now: number;
  freeSlots: FreeSlots;
  emit: EmitAction;
  /** Repacking has failed in this pass for work of this length, and would for longer work. */
  futile: number;
}

/** The host on which suspended work last found no slot, which often is so again: it is looked at first. */
const lastFull = new WeakMap<LeaseRecord, number>();

function isOnFullHost({ freeSlots }: DispatchPass, record: LeaseRecord): boolean {
  const slots = freeSlots.byHost(record.shape);
  const last = lastFull.get(record);
  if (last !== undefined && slots[last]!.length === 0 && record.hosts.includes(last)) return true;
  for (const host of record.hosts) {
    if (slots[host]!.length > 0) continue;
    lastFull.set(record, host);
    return true;
  }
  return false;
}

/** Suspended work resumes on the hosts that have its memory. */
export function placeResumed(pass: DispatchPass, record: LeaseRecord): number[] | null {
  const { state, now, freeSlots } = pass;
  if (isOnFullHost(pass, record)) return null;
  const counts = countByHost(record.hosts);
  const need = Math.max(...[...counts].map(([host, vms]) => startupS(state, record, host, vms))) + record.remainingWorkS;
  for (const [host, vms] of counts) {
    if (!state.hosts[host]!.up || memoryOpsEndAt(state, host, now) > now || !leavesTimeToPreempt(pass, record, host, vms))
      return null;
    const slot = freeSlots.onHost(host, record.shape)[vms - 1];
    if (slot === undefined) return null;
    if (slot.booked >= now + need) continue;
    if (!isPreemptible(pass, record, host, vms, slot)) return null;
  }
  return record.hosts;
}

/** A resume must leave time for the suspends that a promise on this host needs. */
export function leavesTimeToPreempt(pass: DispatchPass, record: LeaseRecord, host: number, vms: number): boolean {
  const { state, now } = pass;
  const overloaded = state.timeline.planned[host]!.freeUntil(now, record.shape, 0);
  return earliestVacantAt(state, host, now) + startupS(state, record, host, vms) <= overloaded - state.policy.marginS;
}

/** Whether work may start in a slot that a promise, not a booking, ends. */
function isPreemptible(pass: DispatchPass, record: LeaseRecord, host: number, vms: number, slot: Slot): boolean {
  const { state, now } = pass;
  if (!state.policy.suspension || !record.preemptible || slot.booked < slot.planned) return false;
  return slot.planned - now >= minWorthwhileS(state, record, host, vms, now);
}

/** New work: the tightest fit for all of it; else after a repacking of reservations; else where it is preempted latest. */
export function placeNew(pass: DispatchPass, record: LeaseRecord): number[] | null {
  const { state, now, freeSlots } = pass;
  const { nodes } = record.lease;
  if (freeSlots.total(record.shape) < nodes) return null;
  const ready = freeSlots
    .hostsWithSlots(record.shape)
    .filter((host) => mayUse(state, record, host) && state.images.isAtHost(record, host, now));
  const uncut: Uncut[] = [];
  const preemptible: { host: number; cost: number; until: number }[] = [];
  for (const host of ready) {
    const slots = freeSlots.onHost(host, record.shape);
    const cost = hostCost(state, record, host);
    const end = now + totalS(state, record, host, 1);
    let vms = 0;
    while (vms < slots.length && slots[vms]!.booked >= end) vms++;
    vms = atOnce(record, vms);
    if (vms > 0) uncut.push({ host, cost, vms, until: slots[vms - 1]!.booked });
    const most = atOnce(record, slots.length);
    for (let i = 0; i < most; i++) {
      const slot = slots[i]!;
      if (i < vms || isPreemptible(pass, record, host, i + 1, slot)) preemptible.push({ host, cost, until: slot.planned });
    }
  }
  const fit = tightestFit(uncut, nodes);
  if (fit !== null) return fit;
  if (!state.policy.suspension || !record.preemptible) return repackForStart(pass, record, ready);
  if (preemptible.length < nodes) return null;
  preemptible.sort((a, b) => a.cost - b.cost || b.until - a.until || a.host - b.host);
  if (record.lease.relation === 'together') return onOneHost(preemptible, nodes);
  return preemptible.slice(0, nodes).map(({ host }) => host);
}

/** The best host that has room for all of them; null: none has. @param room for one VM each, the best first */
function onOneHost(room: readonly { host: number }[], nodes: number): number[] | null {
  const counts = new Map<number, number>();
  for (const { host } of room) counts.set(host, (counts.get(host) ?? 0) + 1);
  const best = room.find(({ host }) => counts.get(host)! >= nodes);
  return best === undefined ? null : Array.from({ length: nodes }, () => best.host);
}

/** How many VMs of a lease one host takes, of those that it has room for: all or none where they stay together. */
function atOnce({ lease: { relation, nodes } }: LeaseRecord, room: number): number {
  if (relation === 'apart') return Math.min(1, room);
  return relation === 'together' && room < nodes ? 0 : room;
}

/** Room for VMs of a lease until its end, and longer. */
interface Uncut {
  host: number;
  cost: number;
  vms: number;
  until: number;
}

/** Where it costs the least; among equals the tightest. */
function tightestFit(uncut: Uncut[], nodes: number): number[] | null {
  if (nodes === 1) {
    let best = uncut[0];
    for (const option of uncut)
      if (option.cost < best!.cost || (option.cost === best!.cost && option.until < best!.until)) best = option;
    return best === undefined ? null : [best.host];
  }
  uncut.sort((a, b) => a.cost - b.cost || a.until - b.until || a.host - b.host);
  const hosts: number[] = [];
  for (const { host, vms } of uncut) {
    for (let i = 0; i < vms && hosts.length < nodes; i++) hosts.push(host);
  }
  return hosts.length === nodes ? hosts : null;
}

/** Exchanges the hosts of reservations so that single-VM work that can't be preempted fits. */
function repackForStart(pass: DispatchPass, record: LeaseRecord, ready: readonly number[]): number[] | null {
  const { state, now, freeSlots } = pass;
  if (record.lease.nodes > 1 || ready.length === 0 || state.hosts.length > maxRepackHosts) return null;
  const need = record.remainingWorkS + leadTimeS(state, record);
  if (need >= pass.futile || freeSlots.availableUntil(record.shape) < now + need) return null;
  let host = ready[0]!;
  for (const other of ready) {
    if (freeSlots.onHost(other, record.shape)[0]!.booked > freeSlots.onHost(host, record.shape)[0]!.booked) host = other;
  }
  setAllocations(state, record, record.preemptible ? 'running' : 'promise', allocationsOn([host], now, now + need));
  if (repack(state, [], now, { mayPreempt: false, preferCachedImages: false, incoming: record })) {
    freeSlots.invalidate();
    return [host];
  }
  setAllocations(state, record, 'running', []);
  pass.futile = need;
  return null;
}

/** Starts or resumes work on its hosts. */
export function launch(pass: DispatchPass, record: LeaseRecord, hosts: number[]): void {
  const { state, now } = pass;
  const resumed = record.phase === 'suspended';
  const ids = hosts.map((host) => state.hosts[host]!.spec.id);
  removeFrom(state.queue, record);
  record.hosts = hosts;
  record.bound = true;
  if (!resumed) state.images.onCreated(record);
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
  state.images.onUsed(record, now);
  for (const host of hosts) pass.freeSlots.refreshHost(host);
  const common = { lease: record.lease.id, fromS: now, workFromS: workFrom, untilS: record.expectedEnd };
  pass.emit(resumed ? { kind: 'resume', ...common, vms } : { kind: 'start', ...common, hosts: ids });
}
