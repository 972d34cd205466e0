import type { Resources } from '../../model/host.ts';
import { earliestFitOn } from './capacity/earliest-fit.ts';
import { assignProvisionalHosts } from './host-binding.ts';
import { type HostSpec, hostShape, type Lease, type Shape } from './lease.ts';
import { LeasePlanner } from './lease-planner.ts';
import {
  allocationsOn,
  ceilSeconds,
  createRecord,
  createState,
  type HostRecord,
  type LeaseRecord,
  type PlanState,
  rankOf,
  removeFrom,
  setAllocations,
  vmStartAt,
} from './plan-state.ts';
import type { Policy } from './site-policy.ts';

/**
 * The plan of a site, made anew from what its ledger says each time that it is asked for: so nothing that was decided
 * is lost with a process, and no second truth has to be kept equal to the first. Pure, like all of the scheduler.
 */

/** `leaving`: its VMs are being removed. */
export type LeasePhase = 'waiting' | 'running' | 'suspending' | 'suspended' | 'migrating' | 'resuming' | 'leaving';

/** A suspend, resume or migration under way: as it was planned. Of suspended work: a migration that is over. */
export interface SiteOperation {
  fromS: number;
  untilS: number;
  vms: { host: string; fromS: number; untilS: number }[];
}

export interface SiteLease {
  id: string;
  kind: Lease['kind'];
  submittedAtS: number;
  durationS: number;
  nodes: number;
  perVm: Resources;
  priority: number;
  preemptible: boolean;
  /** When it was promised to start; null: best effort. */
  startAtS: number | null;
  phase: LeasePhase;
  /** By VM: where they are, where they go while they migrate, or where they are planned. Empty: not known yet. */
  hosts: string[];
  /** The planned hosts are final. */
  bound: boolean;
  /** While it has VMs: since when, or from when on, what is left of its time counts. */
  runFromS: number | null;
  /** How much was left of its time then; null: all of it. */
  leftS: number | null;
  /** What it takes from hosts that are free to its VMs that answer: image, disks, boot or template. */
  leadS: number;
  operation: SiteOperation | null;
}

export interface SiteHost {
  id: string;
  capacity: Resources;
  /** It answers, and takes new work. */
  up: boolean;
  /** It answers: what is there can be moved away. */
  answers: boolean;
  /** Its slowest suspend or resume of late, relative to the plan. */
  slowness: number;
  /** Nothing is left on it from then on, until then. */
  vacant: { fromS: number; untilS: number } | null;
}

/** All that a plan is made from. */
export interface SiteState {
  hosts: SiteHost[];
  /** In the order in which they were accepted. */
  leases: SiteLease[];
  /** Room that nobody can reckon with: of VMs that are stuck or move here, the disks of those that are suspended. */
  taken: { host: string; each: Resources }[];
}

/** What a lease costs beyond its own time, as it was measured on this site. */
export interface SiteFigures {
  /** From the end of the work to a host that is free: outputs, removal. */
  teardownS: number;
  suspendMiBPerS: number;
}

/** How much longer VMs are expected to stay whose time is up. */
const overdueS = 5;
/** Hosts are vacated this much before they are needed. */
const marginS = 2;
/** Nobody waits longer for what only an observation can tell. */
const recheckS = 5;

export function sitePolicy({ suspendMiBPerS }: SiteFigures): Policy {
  return {
    backfilling: 'aggressive',
    suspension: true,
    suspendMiBPerS,
    // The disk stays at its home.
    migration: 'memory',
    networkMiBPerS: 12.5,
    // A lease's own workflow brings its image to its hosts while it waits for its start.
    images: null,
    runtimeOverhead: 0,
    // Each lease has its own.
    bootS: 0,
    marginS,
  };
}

/** As the planner takes it: what it costs to free the hosts again is planned with it, apart from the user's time. */
export function plannedLease(lease: SiteLease, figures: SiteFigures): Lease {
  return {
    id: lease.id,
    kind: lease.startAtS === null ? lease.kind : 'reservation',
    submittedAtS: lease.submittedAtS,
    startAtS: lease.startAtS ?? undefined,
    durationS: ceilSeconds(lease.durationS + figures.teardownS),
    nodes: lease.nodes,
    ...lease.perVm,
    image: '',
    imageMiB: 0,
    priority: lease.priority,
    preemptible: lease.preemptible,
    bootS: lease.leadS,
  };
}

/** A plan, and the promises in it for which there are no hosts at the moment: they are not in it, and looked after again. */
export interface SitePlan {
  planner: LeasePlanner;
  unassigned: string[];
}

export function planSite(site: SiteState, figures: SiteFigures, now: number): SitePlan {
  const policy = sitePolicy(figures);
  const specs: HostSpec[] = site.hosts.map(({ id, capacity }) => ({ id, ...capacity }));
  const context: PlanContext = {
    state: createState(specs, policy),
    index: new Map(site.hosts.map(({ id }, i) => [id, i])),
    isAvailable: (host, from, until) => isAvailable(site.hosts[host]!, from, until),
    isReachable: (host) => site.hosts[host]!.answers,
    figures,
    now,
  };
  const leases = site.leases.map((lease) => leaseRecordOf(context, lease));
  const hosts = site.hosts.map((host, i) => hostRecordOf(host, specs[i]!, site.leases, now));
  const { seq } = context.state;
  const planner = LeasePlanner.restore({ version: 1, policy, hosts, leases, transfer: null, pending: [], seq });
  const always = { from: Number.NEGATIVE_INFINITY, to: Number.POSITIVE_INFINITY };
  for (const { host, each } of site.taken)
    planner.state.timeline.add('promise', [{ host: hostIndex(context, host), ...always }], shapeOf(each), 1);
  const unassigned = assignMissingHosts(planner.state, now);
  bookMigrating(planner.state, now);
  return { planner, unassigned };
}

interface PlanContext {
  state: PlanState;
  index: ReadonlyMap<string, number>;
  /** Whether a promise of that time may be planned on a host. */
  isAvailable: (host: number, from: number, until: number) => boolean;
  isReachable: (host: number) => boolean;
  figures: SiteFigures;
  now: number;
}

const isAvailable = ({ up, vacant }: SiteHost, from: number, until: number): boolean =>
  up && (vacant === null || until <= vacant.fromS || from >= vacant.untilS);

function hostIndex({ index }: PlanContext, host: string): number {
  const found = index.get(host);
  if (found === undefined) throw new Error(`BUG: the plan names the host ${host}, which the site does not have`);
  return found;
}

function shapeOf(each: Resources): Shape {
  return { cpuMilli: each.vcpus * 1000, memoryMiB: each.memoryMiB, diskMiB: each.diskMiB };
}

/** What the planner would know of a lease if it had been told of everything that happened to it. */
function leaseRecordOf(context: PlanContext, lease: SiteLease): LeaseRecord {
  const { state, figures, now } = context;
  const planned = plannedLease(lease, figures);
  const { startAtS } = lease;
  const made = createRecord(
    state,
    planned,
    startAtS === null ? null : { startAt: startAtS, endAt: startAtS + planned.durationS },
  );
  const leaving = lease.phase === 'leaving';
  const record: LeaseRecord = {
    ...made,
    preemptible: made.preemptible && !leaving,
    // The disk of suspended work is taken already: it stays where it is.
    shape: lease.phase === 'suspended' || lease.phase === 'migrating' ? { ...made.shape, diskMiB: 0 } : made.shape,
    remainingWorkS: Math.max(1, ceilSeconds((lease.leftS ?? lease.durationS) + figures.teardownS)),
  };
  record.rank = rankOf(record.lease, record.remainingWorkS, state.policy);
  const hosts = lease.hosts.map((host) => hostIndex(context, host));
  const firm = record.preemptible ? 'running' : 'promise';
  switch (lease.phase) {
    case 'waiting': {
      if (record.promise === null || hosts.length !== lease.nodes) return record;
      const { endAt } = record.promise;
      const from = vmStartAt(state, record);
      if (!hosts.every((host) => context.isAvailable(host, from, endAt))) return record;
      return Object.assign(record, {
        hosts,
        bound: lease.bound,
        allocations: allocationsOn(hosts, from, endAt),
      } satisfies Partial<LeaseRecord>);
    }
    case 'suspended': {
      // Moved once it stays: nothing that goes wrong on the way makes it wander.
      const pinned = lease.operation !== null || !hosts.every(context.isReachable);
      return Object.assign(record, { phase: 'suspended', hosts, pinned } satisfies Partial<LeaseRecord>);
    }
    case 'migrating': {
      const { fromS, untilS } = lease.operation ?? { fromS: now, untilS: now + overdueS };
      const operation = { from: fromS, planned: untilS, until: Math.max(untilS, now + overdueS) };
      return Object.assign(record, { phase: 'migrating', hosts, operation } satisfies Partial<LeaseRecord>);
    }
    case 'suspending': {
      const { fromS, untilS } = operationOf(lease);
      const operation = { from: fromS, planned: untilS, until: untilS };
      const allocations = allocationsOn(hosts, now, Math.max(untilS, now + overdueS));
      return Object.assign(record, {
        phase: 'suspending',
        hosts,
        operation,
        allocations,
        layer: 'running',
      } satisfies Partial<LeaseRecord>);
    }
    case 'resuming': {
      const { fromS, untilS } = operationOf(lease);
      const operation = { from: fromS, planned: untilS, until: untilS };
      const expectedEnd = Math.max(untilS, now + overdueS) + record.remainingWorkS;
      const allocations = allocationsOn(hosts, now, expectedEnd);
      return Object.assign(record, {
        phase: 'resuming',
        hosts,
        operation,
        runFrom: untilS,
        expectedEnd,
        allocations,
        layer: firm,
      } satisfies Partial<LeaseRecord>);
    }
    case 'running':
    case 'leaving': {
      const runFrom = lease.runFromS ?? now;
      const expectedEnd = Math.max(leaving ? now : runFrom + record.remainingWorkS, now + overdueS);
      const allocations = allocationsOn(hosts, now, expectedEnd);
      return Object.assign(record, {
        phase: 'running',
        hosts,
        bound: true,
        runFrom,
        expectedEnd,
        allocations,
        layer: firm,
      } satisfies Partial<LeaseRecord>);
    }
  }
}

function operationOf(lease: SiteLease): SiteOperation {
  if (lease.operation === null) throw new Error(`BUG: the lease ${lease.id} is ${lease.phase} without an operation`);
  return lease.operation;
}

/** A host's network carries one migration at a time: the one that the plan has asked for, while it lasts. */
function networkBusyUntil(host: SiteHost, leases: readonly SiteLease[], now: number): number {
  const ends = leases.flatMap((lease) => {
    const isOn = lease.hosts.includes(host.id) || (lease.operation?.vms.some((vm) => vm.host === host.id) ?? false);
    return lease.phase === 'migrating' && isOn ? [Math.max(lease.operation?.untilS ?? now, now + overdueS)] : [];
  });
  return Math.max(0, ...ends);
}

function hostRecordOf(host: SiteHost, spec: HostSpec, leases: readonly SiteLease[], now: number): HostRecord {
  const ops = leases
    .flatMap(({ phase, operation }) => (phase === 'suspending' || phase === 'resuming' ? (operation?.vms ?? []) : []))
    .filter((op) => op.host === host.id && op.untilS > now)
    .map(({ fromS, untilS }) => ({ from: fromS, until: untilS }))
    .sort((a, b) => a.from - b.from);
  const { vacant } = host;
  return {
    spec,
    capacity: hostShape(spec),
    up: host.up,
    drain: vacant !== null && vacant.untilS > now ? { from: vacant.fromS, until: vacant.untilS } : null,
    memoryOps: ops,
    networkBusyUntil: networkBusyUntil(host, leases, now),
    cache: [],
    slowness: host.slowness,
  };
}

/** Work that is being moved has its place where it goes, from when it is expected there. */
function bookMigrating(state: PlanState, now: number): void {
  for (const record of state.queue) {
    if (record.phase !== 'migrating') continue;
    const place = earliestFitOn(state, { ...record, phase: 'suspended' }, Math.max(now, record.operation.until), record.hosts);
    if (place !== null) setAllocations(state, record, 'booking', allocationsOn(place.hosts, place.from, place.to));
  }
}

/** Hosts for promises that have none, or whose hosts are gone, the next start first. */
function assignMissingHosts(state: PlanState, now: number): string[] {
  const homeless = state.upcoming.filter(
    (record) => record.allocations.length === 0 && !assignProvisionalHosts(state, record, now),
  );
  for (const record of homeless) {
    removeFrom(state.upcoming, record);
    state.leases.delete(record.lease.id);
  }
  return homeless.map((record) => record.lease.id);
}

/** What is to be done now, and what the ledger should remember of the plan. */
export interface SiteDecision {
  /** `untilS`: when its time is up. */
  starts: { lease: string; hosts: string[]; workFromS: number; untilS: number }[];
  suspends: { lease: string; leftS: number; operation: SiteOperation }[];
  resumes: { lease: string; operation: SiteOperation }[];
  /** Suspended work of one VM that goes on sooner elsewhere. */
  moves: { lease: string; to: string; operation: SiteOperation }[];
  /** Promises that have not begun, whose hosts were chosen or exchanged. */
  promises: { lease: string; hosts: string[]; bound: boolean }[];
  /** Promises whose time is over without having begun. */
  broken: string[];
  /** When to decide again if nothing happens; null: only when something does. */
  wakeAtS: number | null;
}

export function decideSite(site: SiteState, figures: SiteFigures, now: number): SiteDecision {
  const isOver = (lease: SiteLease) =>
    lease.phase === 'waiting' && lease.startAtS !== null && lease.startAtS + lease.durationS <= now;
  const broken = site.leases.filter(isOver).map((lease) => lease.id);
  const alive = { ...site, leases: site.leases.filter((lease) => !isOver(lease)) };
  const { planner, unassigned } = planSite(alive, figures, now);
  const decision: SiteDecision = { starts: [], suspends: [], resumes: [], moves: [], promises: [], broken, wakeAtS: null };
  for (const action of planner.decide(now)) {
    switch (action.kind) {
      case 'start':
        decision.starts.push({
          lease: action.lease,
          hosts: action.hosts,
          workFromS: action.workFromS,
          untilS: action.untilS - figures.teardownS,
        });
        break;
      case 'suspend': {
        const leftS = Math.max(1, planner.state.leases.get(action.lease)!.remainingWorkS - figures.teardownS);
        decision.suspends.push({ lease: action.lease, leftS, operation: asOperation(action) });
        break;
      }
      case 'resume':
        decision.resumes.push({ lease: action.lease, operation: asOperation(action) });
        break;
      case 'migrate': {
        const { lease, fromS, untilS, vms } = action;
        const [{ from, to }] = vms as [(typeof vms)[number]];
        decision.moves.push({ lease, to, operation: { fromS, untilS, vms: [{ host: from, fromS, untilS }] } });
        break;
      }
      case 'transfer':
      case 'evict':
      case 'stop':
      case 'breakPromise':
        throw new Error(`BUG: under this site's policy nothing is to ${action.kind}, and ${JSON.stringify(action)} was planned`);
    }
  }
  decision.promises = changedPromises(alive, planner.state);
  const wakeAt = Math.min(planner.wakeAt(now), unassigned.length > 0 ? now + recheckS : Number.POSITIVE_INFINITY);
  // A promise that is due and waits for a host to be free: what frees it is reported, and this is for what isn't.
  const isPromiseLate = planner.state.upcoming.some((record) => vmStartAt(planner.state, record) <= now);
  const at = isPromiseLate ? Math.min(wakeAt, now + recheckS) : wakeAt;
  decision.wakeAtS = at === Number.POSITIVE_INFINITY ? null : at;
  return decision;
}

function asOperation(action: { fromS: number; untilS: number; vms: SiteOperation['vms'] }): SiteOperation {
  const workFromS = 'workFromS' in action ? Number(action.workFromS) : action.untilS;
  return {
    fromS: action.fromS,
    untilS: workFromS,
    vms: action.vms.map(({ host, fromS, untilS }) => ({ host, fromS, untilS })),
  };
}

/** What the ledger does not say yet of promises that have not begun. */
export function changedPromises(site: SiteState, state: PlanState): SiteDecision['promises'] {
  const before = new Map(site.leases.map((lease) => [lease.id, lease]));
  return state.upcoming.flatMap(({ lease, hosts: indices, bound }) => {
    const hosts = indices.map((host) => state.hosts[host]!.spec.id);
    const was = before.get(lease.id);
    const same = was !== undefined && was.bound === bound && String(was.hosts) === String(hosts);
    return same ? [] : [{ lease: lease.id, hosts, bound }];
  });
}
