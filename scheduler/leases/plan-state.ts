import { type Allocation, type Layer, Timeline } from './capacity/timeline.ts';
import { type HostSpec, hostShape, type Lease, type Shape, vmShape } from './lease.ts';
import type { Policy } from './site-policy.ts';

/** The planner's state. Every time without a unit in its name is in seconds. */

/**
 * `waiting`: a reservation before its start, or best-effort work in the queue. `suspended` work waits too. The phases that
 * end in -ing are under way on a host; an observation ends them.
 */
export type PlannedPhase = 'waiting' | 'running' | 'suspending' | 'suspended' | 'resuming' | 'migrating' | 'ended';

/** What the planner knows of one lease. Plain data: the list of these and that of the hosts are its whole state. */
export interface LeaseRecord {
  readonly lease: Lease;
  readonly seq: number;
  readonly shape: Shape;
  /** Reservations (and best effort with a deadline): the promised interval of the work. null: best effort. */
  readonly promise: { startAt: number; endAt: number } | null;
  readonly preemptible: boolean;
  /** Its position in the queue: lower goes first. */
  rank: number;
  phase: PlannedPhase;
  /** Seconds of work that remain, runtime overhead included. */
  remainingWorkS: number;
  /** Index of the host of each VM: where it is, is booked or could go. Empty: not known yet. */
  hosts: number[];
  /** The hosts are final: preemption or a transfer has begun there. */
  bound: boolean;
  /** Suspended work that may not migrate. */
  pinned: boolean;
  allocations: Allocation[];
  layer: Layer;
  /** While running or resuming: when the work (re)starts and when it ends at the latest. */
  runFrom: number;
  expectedEnd: number;
  /** The suspend, resume or migration under way: its start, its planned end, and its end as expected now. */
  operation: { from: number; planned: number; until: number };
}

export interface HostRecord {
  readonly spec: HostSpec;
  readonly capacity: Shape;
  up: boolean;
  /** The host is empty over this interval: planned maintenance or a reservation of the host. */
  drain: { from: number; until: number } | null;
  /** Suspends and resumes under way or scheduled: one at a time. */
  memoryOps: { from: number; until: number }[];
  /** When the migration that uses its network ends. */
  networkBusyUntil: number;
  /** The duration of its suspends and resumes relative to the plan; later plans are scaled by it. */
  slowness: number;
  /** Seconds to suspend its preemptible VMs that are no leases of the plan, only capacity (RunningVm); 0 else. */
  otherSuspendsS: number;
}

/**
 * How images reach hosts, as far as the plan depends on it. `imagesInPlace` is the site's; the simulator has another in
 * scheduler/simulation/images.
 */
export interface ImageDelivery {
  /** No plan depends on images; lets the planner skip comparisons that could not differ. */
  readonly areInPlace: boolean;
  /** Why the image of a lease can never be delivered; null: it can. */
  sizeRefusal(lease: Lease): string | null;
  /** Whether VMs of the lease can start on a host now as far as the image is concerned. */
  isAtHost(record: LeaseRecord, host: number, now: number): boolean;
  /** Seconds to send a lease's image. */
  transferS(record: LeaseRecord): number;
  /** When the transfer under way is over; `now` if there is none. */
  linkFreeAt(now: number): number;
  /** Whether the images of all reservations arrive in time, with one more reservation. */
  fitInTime(state: PlanState, extra: LeaseRecord, now: number): boolean;
  /** The latest start of the next transfer for a reservation; Infinity: none is needed. */
  latestStart(state: PlanState): number;
  /** Whether a host receives an image, so that its network is in use. */
  isReceiving(host: number): boolean;
  /** The lease's image is being sent: its work neither starts nor changes hosts meanwhile. */
  isAwaited(record: LeaseRecord): boolean;
  /** Waiting work has its own copy of the image on certain hosts, and starts there. */
  isStaged(record: LeaseRecord): boolean;
  /** What a migration of suspended work sends with the disk, beside the memory. */
  migratedMiB(record: LeaseRecord): number;
  /** VMs were created on `record.hosts`: their disks are based on the images there. */
  onCreated(record: LeaseRecord): void;
  /** Work from the queue was started or resumed. */
  onUsed(record: LeaseRecord, now: number): void;
  /** The disks are no longer based on an image of a host. */
  onMigrated(record: LeaseRecord): void;
  /** The work starts anew: its copies are lost. */
  onRequeued(record: LeaseRecord): void;
  onEnded(record: LeaseRecord): void;
}

export interface PlanState {
  readonly policy: Policy;
  readonly images: ImageDelivery;
  readonly hosts: HostRecord[];
  readonly leases: Map<string, LeaseRecord>;
  /** Reservations that have not started, by the start of their VMs. */
  readonly upcoming: LeaseRecord[];
  /** Best-effort leases that wait or are suspended, by rank. */
  readonly queue: LeaseRecord[];
  /** Best-effort leases on each host that a reservation may preempt. */
  readonly preemptibleByHost: Set<LeaseRecord>[];
  /** Seconds to suspend all preemptible VMs of a host, one after the other. */
  readonly suspendAllS: number[];
  /** Leases with VMs on hosts that are not suspended. */
  readonly underway: Set<LeaseRecord>;
  readonly timeline: Timeline;
  seq: number;
}

export function createState(hosts: readonly HostSpec[], policy: Policy, images: ImageDelivery): PlanState {
  const records = hosts.map((spec) => ({
    spec,
    capacity: hostShape(spec),
    up: true,
    drain: null,
    memoryOps: [],
    networkBusyUntil: 0,
    slowness: 1,
    otherSuspendsS: 0,
  }));
  return {
    policy,
    images,
    hosts: records,
    leases: new Map(),
    upcoming: [],
    queue: [],
    preemptibleByHost: records.map(() => new Set()),
    suspendAllS: records.map(() => 0),
    underway: new Set(),
    timeline: new Timeline(records.map((host) => host.capacity)),
    seq: 0,
  };
}

/** Rounds up to whole seconds, the plan's resolution. */
export function ceilSeconds(seconds: number): number {
  return Math.ceil(seconds - 1e-6);
}

export function plannedWorkS(lease: Lease, policy: Policy): number {
  return ceilSeconds(lease.durationS * (1 + policy.runtimeOverhead));
}

/**
 * The queue's order: by priority, then by submission, with a head start for long work. Longest first packs best, so a
 * longer lease may overtake one that was submitted earlier by at most `headStart` times the difference in length. That
 * bound prevents starvation.
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
  };
}

/** Replaces a lease's allocations. The timeline changes for a lease nowhere else. */
export function setAllocations(state: PlanState, record: LeaseRecord, layer: Layer, allocations: Allocation[]): void {
  state.timeline.add(record.layer, record.allocations, record.shape, -1);
  record.layer = layer;
  record.allocations = allocations;
  state.timeline.add(layer, allocations, record.shape, 1);
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

/** Whether a lease may use a host: one that pays by offers uses theirs alone, one with rules those that they allow. */
export const mayUse = (state: PlanState, { lease }: LeaseRecord, host: number): boolean =>
  lease.hostCosts == null || lease.hostCosts.has(state.hosts[host]!.spec.id);

/** What a lease costs on a host that it may use: the same on each, unless it pays by offers. */
export const hostCost = (state: PlanState, { lease }: LeaseRecord, host: number): number =>
  lease.hostCosts?.get(state.hosts[host]!.spec.id) ?? 0;

/** Seconds to write or read one VM's memory on a host. */
export function memoryOpS(state: PlanState, host: number, shape: Shape): number {
  return ceilSeconds((shape.memoryMiB / state.policy.suspendMiBPerS) * state.hosts[host]!.slowness);
}

/** When the suspends and resumes of a host that are under way or scheduled are over. */
export function memoryOpsEndAt(state: PlanState, host: number, now: number): number {
  let at = now;
  for (const op of state.hosts[host]!.memoryOps) at = Math.max(at, op.until);
  return at;
}

/** When all best-effort work on a host can be suspended, one VM after the other, after the operations under way. */
export function earliestVacantAt(state: PlanState, host: number, now: number): number {
  return state.policy.suspension ? memoryOpsEndAt(state, host, now) + state.suspendAllS[host]! : now;
}

/** Call it when the preemptible work on a host or its slowness has changed. */
export function updateSuspendAllS(state: PlanState, host: number): void {
  let seconds = state.hosts[host]!.otherSuspendsS;
  for (const preemptible of state.preemptibleByHost[host]!) {
    for (const vmHost of preemptible.hosts) if (vmHost === host) seconds += memoryOpS(state, host, preemptible.shape);
  }
  state.suspendAllS[host] = seconds;
}

/** When a reservation's VMs start; its hosts are vacant by then. */
export function vmStartAt(state: PlanState, record: LeaseRecord): number {
  return record.promise!.startAt - leadTimeS(state, record);
}

/** From the start of a lease's VMs to the start of its work. */
export function leadTimeS({ policy }: PlanState, { lease }: LeaseRecord): number {
  return lease.bootS ?? policy.bootS;
}
