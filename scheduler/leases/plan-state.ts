import type { Action } from './actions.ts';
import { type Allocation, type Layer, Timeline } from './capacity/timeline.ts';
import { type HostSpec, hostShape, type Lease, type Shape, vmShape } from './lease.ts';
import type { Policy } from './site-policy.ts';

/**
 * `waiting`: a reservation before its start, or best-effort work in the queue. `suspended` work waits too.
 * The phases that end in -ing are under way on a host; the planner is told when they are over.
 */
export type PlannedPhase = 'waiting' | 'running' | 'suspending' | 'suspended' | 'resuming' | 'migrating' | 'ended';

/** What the planner knows of one lease. Plain data: a list of these and of the hosts is all of its state. */
export interface LeaseRecord {
  readonly lease: Lease;
  readonly seq: number;
  readonly shape: Shape;
  /** Reservations (and best effort with a deadline): the promised interval of the work. null: best effort. */
  readonly promise: { startAt: number; endAt: number } | null;
  readonly preemptible: boolean;
  /** Where the queue has it: lower goes first. */
  rank: number;
  phase: PlannedPhase;
  /** Seconds of work that are left, runtime overhead included. */
  remainingWorkS: number;
  /** Index of the host of each VM: where it is, where it is booked, or where it could go. Empty: not known yet. */
  hosts: number[];
  /** The hosts are final: something was set in motion there. */
  bound: boolean;
  /** Suspended work that is not to be moved. */
  pinned: boolean;
  allocations: Allocation[];
  layer: Layer;
  /** While running or resuming: when the work (re)starts and when it ends at the latest. */
  runFrom: number;
  expectedEnd: number;
  /** The suspend, resume or migration under way: as it was planned, and when it is expected to be over now. */
  operation: { from: number; planned: number; until: number };
  /** Hosts that hold or are getting this lease's own copy of the image, when hosts keep no cache. */
  imageCopies: number[];
  /** Hosts whose image the disks of its VMs are based on; a migrated disk stands alone. */
  backingImageHosts: number[];
  /** When the pending transfer for this lease is over; null: none is under way. */
  transferUntil: number | null;
}

export interface CachedImage {
  image: string;
  sizeMiB: number;
  lastUsedAt: number;
  /** Still coming. */
  readyAt: number;
}

export interface HostRecord {
  readonly spec: HostSpec;
  readonly capacity: Shape;
  up: boolean;
  /** Nothing is left on it from then on, until `returnsAt`. */
  drain: { from: number; until: number } | null;
  /** Suspends and resumes under way or fixed for later: one at a time. */
  memoryOps: { from: number; until: number }[];
  /** Its network carries a migration until then. */
  networkBusyUntil: number;
  cache: CachedImage[];
  /** The slowest suspend or resume seen, relative to the plan: later plans allow for it. */
  slowness: number;
}

/** What the repository's link is sending. */
export interface Transfer {
  image: string;
  hosts: number[];
  leases: string[];
  from: number;
  until: number;
}

export interface PlanState {
  readonly policy: Policy;
  readonly hosts: HostRecord[];
  readonly leases: Map<string, LeaseRecord>;
  /** Reservations that have not started, by when their VMs must be. */
  readonly upcoming: LeaseRecord[];
  /** Best effort that waits or is suspended, by rank. */
  readonly queue: LeaseRecord[];
  /** Best effort on each host that a reservation may displace. */
  readonly preemptibleByHost: Set<LeaseRecord>[];
  /** What it takes to write all residents of a host, one after the other. */
  readonly suspendAllS: number[];
  /** Whatever has VMs on hosts, but for what is suspended. */
  readonly underway: Set<LeaseRecord>;
  readonly timeline: Timeline;
  transfer: Transfer | null;
  /** Decided outside of `decide`, to be said by the next one. */
  pendingActions: Action[];
  seq: number;
}

export function createState(hosts: readonly HostSpec[], policy: Policy): PlanState {
  const records = hosts.map((spec) => ({
    spec,
    capacity: hostShape(spec),
    up: true,
    drain: null,
    memoryOps: [],
    networkBusyUntil: 0,
    cache: [],
    slowness: 1,
  }));
  return {
    policy,
    hosts: records,
    leases: new Map(),
    upcoming: [],
    queue: [],
    preemptibleByHost: records.map(() => new Set()),
    suspendAllS: records.map(() => 0),
    underway: new Set(),
    timeline: new Timeline(records.map((host) => host.capacity)),
    transfer: null,
    pendingActions: [],
    seq: 0,
  };
}

/** Whole seconds, never less than what it takes: the plan's resolution. */
export function ceilSeconds(seconds: number): number {
  return Math.ceil(seconds - 1e-6);
}

export function plannedWorkS(lease: Lease, policy: Policy): number {
  return ceilSeconds(lease.durationS * (1 + policy.runtimeOverhead));
}

/**
 * The queue's order: by priority, then by submission, with a head start for long work. Longest first packs best, so a
 * lease may be overtaken by a longer one that came a little later, at most `headStart` times the difference in length
 * later: nobody is overtaken for ever.
 */
const headStart = 6;
const priorityS = 1e11;

export function rankOf(lease: Lease, leftS: number, policy: Policy): number {
  const ahead = policy.backfilling === 'none' ? 0 : headStart * leftS;
  return lease.submittedAtS - ahead - (lease.priority ?? 0) * priorityS;
}

export function createRecord(state: PlanState, lease: Lease, promise: LeaseRecord['promise']): LeaseRecord {
  return {
    lease,
    seq: state.seq++,
    shape: vmShape(lease),
    promise,
    preemptible: promise === null && (lease.preemptible ?? true),
    rank: rankOf(lease, lease.durationS, state.policy),
    phase: 'waiting',
    remainingWorkS: promise === null ? plannedWorkS(lease, state.policy) : promise.endAt - promise.startAt,
    hosts: [],
    bound: false,
    pinned: false,
    allocations: [],
    layer: promise === null ? 'running' : 'promise',
    runFrom: 0,
    expectedEnd: 0,
    operation: { from: 0, planned: 0, until: 0 },
    imageCopies: [],
    backingImageHosts: [],
    transferUntil: null,
  };
}

/** Replaces what a lease takes of the hosts. The only place where the timeline changes on behalf of a lease. */
export function setAllocations(state: PlanState, record: LeaseRecord, layer: Layer, claims: Allocation[]): void {
  state.timeline.add(record.layer, record.allocations, record.shape, -1);
  record.layer = layer;
  record.allocations = claims;
  state.timeline.add(layer, claims, record.shape, 1);
}

export function allocationsOn(hosts: readonly number[], from: number, to: number): Allocation[] {
  return hosts.map((host) => ({ host, from, to }));
}

function insertBy(list: LeaseRecord[], record: LeaseRecord, key: (r: LeaseRecord) => number): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const other = list[middle]!;
    if (key(other) < key(record) || (key(other) === key(record) && other.seq < record.seq)) low = middle + 1;
    else high = middle;
  }
  list.splice(low, 0, record);
}

export function enqueue(state: PlanState, record: LeaseRecord): void {
  insertBy(state.queue, record, (r) => r.rank);
}

export function addUpcoming(state: PlanState, record: LeaseRecord): void {
  insertBy(state.upcoming, record, (r) => vmStartAt(state, r));
}

export function removeFrom(list: LeaseRecord[], record: LeaseRecord): void {
  const i = list.indexOf(record);
  if (i >= 0) list.splice(i, 1);
}

/** Seconds to write one VM's memory, or to read it back, on a host. */
export function memoryOpS(state: PlanState, host: number, shape: Shape): number {
  return ceilSeconds((shape.memoryMiB / state.policy.suspendMiBPerS) * state.hosts[host]!.slowness);
}

/** When the suspends and resumes of a host that are under way or fixed are over. */
export function memoryOpsEndAt(state: PlanState, host: number, now: number): number {
  let at = now;
  for (const op of state.hosts[host]!.memoryOps) at = Math.max(at, op.until);
  return at;
}

/** When all best effort on a host can be out of it, written one VM after the other, what is under way first. */
export function earliestVacantAt(state: PlanState, host: number, now: number): number {
  return state.policy.suspension ? memoryOpsEndAt(state, host, now) + state.suspendAllS[host]! : now;
}

/** To be called when a host's residents or its speed have changed. */
export function updateSuspendAllS(state: PlanState, host: number): void {
  let seconds = 0;
  for (const resident of state.preemptibleByHost[host]!) {
    for (const place of resident.hosts) if (place === host) seconds += memoryOpS(state, host, resident.shape);
  }
  state.suspendAllS[host] = seconds;
}

/** A host from which nothing is missing that VMs of an image need: the image itself. */
export function hasImage(state: PlanState, record: LeaseRecord, host: number, now: number): boolean {
  const { images } = state.policy;
  if (images === null || record.lease.imageMiB === 0) return true;
  if (images.cacheMiB === 0) return record.transferUntil === null && record.imageCopies.includes(host);
  return state.hosts[host]!.cache.some((cached) => cached.image === record.lease.image && cached.readyAt <= now);
}

export function transferS(state: PlanState, record: LeaseRecord): number {
  const { images } = state.policy;
  return images === null ? 0 : ceilSeconds(record.lease.imageMiB / images.rateMiBPerS);
}

/** When a reservation's VMs must be started, and all be ready for them. */
export function vmStartAt(state: PlanState, record: LeaseRecord): number {
  return record.promise!.startAt - leadTimeS(state, record);
}

/** From the start of a lease's VMs to the start of its work. */
export function leadTimeS({ policy }: PlanState, { lease }: LeaseRecord): number {
  return lease.bootS ?? policy.bootS;
}
