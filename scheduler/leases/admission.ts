import { earliestGangFit } from './capacity/timeline.ts';
import { assignProvisionalHosts } from './host-binding.ts';
import { fitCount, type Lease, type Shape } from './lease.ts';
import {
  addUpcoming,
  createRecord,
  earliestVacantAt,
  enqueue,
  type LeaseRecord,
  leadTimeS,
  type PlanState,
  plannedWorkS,
  setAllocations,
  vmStartAt,
} from './plan-state.ts';
import { canPreemptGangsInTime } from './preemption.ts';

export type RefusalReason =
  /** Larger than the site, or than any of its hosts, ever has free. */
  | 'too-large'
  /** The hosts are promised to other leases in that interval. */
  | 'no-capacity'
  /** The start is past, or too soon to vacate hosts and boot. */
  | 'too-soon'
  /** The image can't arrive in time. */
  | 'image-too-late'
  /** Best-effort work that can't end by its deadline. */
  | 'deadline'
  /** The image is larger than a host's cache. */
  | 'image-too-large';

/** A reservation that would be accepted. */
export interface Alternative {
  change: 'later' | 'fewer' | 'shorter';
  startAtS: number;
  nodes: number;
  durationS: number;
}

export type AdmissionDecision =
  | { accepted: true; promise: { startAtS: number; endAtS: number } | null }
  | { accepted: false; reason: RefusalReason; detail: string; alternatives: Alternative[] };

/** Decides on a new lease. An accepted lease is in the plan; a refused one leaves the state unchanged. */
export function admit(state: PlanState, lease: Lease, now: number): AdmissionDecision {
  const refused = sizeRefusal(state, lease);
  if (refused !== null) return refused;
  switch (lease.kind) {
    case 'reservation':
      return reserve(state, lease, lease.startAtS!, now);
    case 'immediate':
      return reserve(state, lease, now + earliestReadyInS(state, lease, now), now);
    case 'bestEffort':
      if (lease.deadlineAtS !== undefined) return reserveByDeadline(state, lease, lease.deadlineAtS, now);
      accept(state, createRecord(state, lease, null));
      return { accepted: true, promise: null };
  }
}

function accept(state: PlanState, record: LeaseRecord): void {
  state.leases.set(record.lease.id, record);
  if (record.promise === null) enqueue(state, record);
  else addUpcoming(state, record);
}

function refuse(reason: RefusalReason, detail: string, alternatives: Alternative[] = []): AdmissionDecision {
  return { accepted: false, reason, detail, alternatives };
}

const nothing: Shape = { cpuMilli: 0, memoryMiB: 0, diskMiB: 0 };

function sizeRefusal(state: PlanState, lease: Lease): AdmissionDecision | null {
  const { shape } = createRecord(state, lease, null);
  let capacityVms = 0;
  for (const { capacity } of state.hosts) capacityVms += Math.min(lease.nodes, fitCount(capacity, nothing, shape));
  if (capacityVms < lease.nodes)
    return refuse('too-large', `${lease.nodes} VMs of this size are asked for; the empty site holds ${capacityVms}`);
  const imageRefusal = state.images.sizeRefusal(lease);
  return imageRefusal === null ? null : refuse('image-too-large', imageRefusal);
}

/** Seconds until any host can be ready: vacant, with the image, its VMs booted. */
function earliestReadyInS(state: PlanState, lease: Lease, now: number): number {
  const record = createRecord(state, lease, null);
  let vacantAt = Number.POSITIVE_INFINITY;
  for (const [host, profile] of state.timeline.planned.entries()) {
    const free = profile.fits(now, now + lease.durationS, record.shape, 1) > 0;
    vacantAt = Math.min(vacantAt, free ? now : earliestVacantAt(state, host, now));
  }
  const imageArrivesAt = state.images.linkFreeAt(now) + state.images.transferS(record);
  return Math.max(vacantAt, imageArrivesAt) + state.policy.marginS + leadTimeS(state, record) - now;
}

function reserve(state: PlanState, lease: Lease, startAt: number, now: number): AdmissionDecision {
  const record = createRecord(state, lease, { startAt, endAt: startAt + lease.durationS });
  if (vmStartAt(state, record) < now) {
    return refuse(
      'too-soon',
      `the start is ${Math.ceil(now - vmStartAt(state, record))} s too near`,
      alternatives(state, lease, startAt, now),
    );
  }
  if (!state.images.fitInTime(state, record, now)) {
    return refuse('image-too-late', 'the link is taken by images that are due earlier', alternatives(state, lease, startAt, now));
  }
  if (!assignProvisionalHosts(state, record, now)) {
    return refuse('no-capacity', 'the hosts are promised to others', alternatives(state, lease, startAt, now));
  }
  if (!canPreemptGangsInTime(state, record, now)) {
    setAllocations(state, record, 'promise', []);
    const detail = 'work that would have to give way could not leave its other hosts in time';
    return refuse('too-soon', detail, alternatives(state, lease, startAt, now));
  }
  accept(state, record);
  return { accepted: true, promise: { startAtS: startAt, endAtS: record.promise!.endAt } };
}

/** Work with a deadline gets the earliest fixed start that meets it. */
function reserveByDeadline(state: PlanState, lease: Lease, deadline: number, now: number): AdmissionDecision {
  const durationS = plannedWorkS(lease, state.policy);
  const later = nextAdmissibleStart(state, { ...lease, durationS }, now + earliestReadyInS(state, lease, now), now);
  if (later === null || later + durationS > deadline) {
    return refuse('deadline', later === null ? 'there is never room' : `it would end at ${later + durationS}`);
  }
  return reserve(state, { ...lease, durationS }, later, now);
}

/** Up to three: the next start, fewer VMs, a shorter time. Each would be accepted as it is. */
function alternatives(state: PlanState, lease: Lease, startAt: number, now: number): Alternative[] {
  const found: Alternative[] = [];
  const { nodes, durationS } = lease;
  const later = nextAdmissibleStart(state, lease, Math.max(startAt, now + earliestReadyInS(state, lease, now)), now);
  if (later !== null) found.push({ change: 'later', startAtS: later, nodes, durationS });
  const fewer = largestPassing(1, nodes - 1, (count) => isAdmissible(state, { ...lease, nodes: count }, startAt, now));
  if (fewer !== null) found.push({ change: 'fewer', startAtS: startAt, nodes: fewer, durationS });
  const shorter = largestPassing(1, Math.floor(durationS) - 1, (time) =>
    isAdmissible(state, { ...lease, durationS: time }, startAt, now),
  );
  if (shorter !== null) found.push({ change: 'shorter', startAtS: startAt, nodes, durationS: shorter });
  return found;
}

/** The next start at which a reservation would be accepted, without changes to the hosts of other reservations. */
function nextAdmissibleStart(state: PlanState, lease: Lease, notBefore: number, now: number): number | null {
  const hosts = state.hosts.flatMap((host, i) => (host.up ? [i] : []));
  const record = createRecord(state, lease, null);
  const { shape } = record;
  const bootS = leadTimeS(state, record);
  let from = notBefore - bootS;
  for (let tries = 0; tries < 100; tries++) {
    const fit = earliestGangFit(state.timeline.promised, hosts, lease.nodes, shape, lease.durationS + bootS, from);
    if (fit === null) return null;
    if (isAdmissible(state, lease, fit.from + bootS, now)) return fit.from + bootS;
    from = fit.from + Math.max(1, state.images.transferS(record));
  }
  return null;
}

function isAdmissible(state: PlanState, lease: Lease, startAt: number, now: number): boolean {
  const record = createRecord(state, { ...lease, kind: 'reservation' }, { startAt, endAt: startAt + lease.durationS });
  if (
    vmStartAt(state, record) < now ||
    !state.images.fitInTime(state, record, now) ||
    !assignProvisionalHosts(state, record, now)
  )
    return false;
  const isAccepted = canPreemptGangsInTime(state, record, now);
  setAllocations(state, record, 'promise', []);
  return isAccepted;
}

/** The largest whole number in [low, high] that passes, when all smaller ones pass too. */
function largestPassing(low: number, high: number, passes: (n: number) => boolean): number | null {
  if (high < low || !passes(low)) return null;
  let good = low;
  let bad = high + 1;
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    if (passes(middle)) good = middle;
    else bad = middle;
  }
  return good;
}
