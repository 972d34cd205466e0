import { assignProvisionalHosts } from '../host-binding.ts';
import { imagesInPlace } from '../image-delivery.ts';
import type { HostSpec, Shape } from '../lease.ts';
import { LeasePlanner } from '../lease-planner.ts';
import { createState, type LeaseRecord, type PlanState, removeFrom, vmStartAt } from '../plan-state.ts';
import {
  addRunning,
  bookMigrating,
  hostIndex,
  hostRecordOf,
  isAvailable,
  leaseRecordOf,
  nextRunningEndS,
  operationsByHost,
  type PlanContext,
  shapeOf,
} from './site-records.ts';
import { type SiteFigures, type SiteLease, type SiteOperation, type SiteState, sitePolicy } from './site-state.ts';

/**
 * The plan of a site, made anew from the ledger's rows for every use: no decision is lost with a process, and there is no
 * second copy to keep equal to the ledger. Pure.
 */

/** The interval of decisions while something waits that no event reports. */
const recheckS = 5;

/** A plan without the promises for which there are no hosts at the moment; the next decision tries them again. */
interface SitePlan {
  planner: LeasePlanner;
  unassigned: string[];
}

export function planSite(site: SiteState, figures: SiteFigures, now: number): SitePlan {
  const policy = sitePolicy(figures);
  const specs: HostSpec[] = site.hosts.map(({ id, capacity }) => ({ id, ...capacity }));
  const context: PlanContext = {
    // Of the policy and a sequence alone: what records are made of needs no hosts.
    state: createState([], policy, imagesInPlace),
    index: new Map(site.hosts.map(({ id }, i) => [id, i])),
    isAvailable: (host, from, until) => isAvailable(site.hosts[host]!, from, until),
    isReachable: (host) => site.hosts[host]!.answers,
    figures,
    now,
  };
  const leases = site.leases.map((lease) => leaseRecordOf(context, lease));
  const operations = operationsByHost(site.leases, now);
  const hosts = site.hosts.map((host, i) => hostRecordOf(host, specs[i]!, operations.get(host.id), now));
  const { seq } = context.state;
  const planner = LeasePlanner.restore({ policy, hosts, leases, seq });
  addRunning({ ...context, state: planner.state }, site.running ?? []);
  const always = { from: Number.NEGATIVE_INFINITY, to: Number.POSITIVE_INFINITY };
  for (const { host, each } of site.taken)
    planner.state.timeline.add('promise', [{ host: hostIndex(context, host), ...always }], shapeOf(each), 1);
  const unassigned = assignMissingHosts(planner.state, now);
  bookMigrating(planner.state, now);
  return { planner, unassigned };
}

/** Finds hosts for promises without hosts or with lost ones, the next start first. @returns those for which there are none */
function assignMissingHosts(state: PlanState, now: number): string[] {
  const unassigned = state.upcoming.filter(
    (record) => record.allocations.length === 0 && !assignProvisionalHosts(state, record, now),
  );
  for (const record of unassigned) {
    removeFrom(state.upcoming, record);
    state.leases.delete(record.lease.id);
  }
  return unassigned.map((record) => record.lease.id);
}

/** What to do now, and what the ledger records of the plan. */
export interface SiteDecision {
  /** `untilS`: the end of its time. */
  starts: { lease: string; hosts: string[]; workFromS: number; untilS: number }[];
  suspends: { lease: string; leftS: number; operation: SiteOperation }[];
  resumes: { lease: string; operation: SiteOperation }[];
  /** Suspended work of one VM that resumes sooner on another host. */
  moves: { lease: string; to: string; operation: SiteOperation }[];
  /** Promises that have not started, whose hosts were chosen or exchanged. */
  promises: { lease: string; hosts: string[]; bound: boolean }[];
  /** Promises whose time is over without a start. */
  broken: string[];
  /** When to decide again if nothing happens; null: not before something happens. */
  wakeAtS: number | null;
  /** Not empty: the decision does not count; it has to be made again with the leases on these hosts. */
  hostsToList: string[];
}

export function decideSite(site: SiteState, figures: SiteFigures, now: number): SiteDecision {
  const isOver = (lease: SiteLease) =>
    lease.phase === 'waiting' && lease.startAtS !== null && lease.startAtS + lease.durationS <= now;
  const broken = site.leases.filter(isOver).map((lease) => lease.id);
  const alive = { ...site, leases: site.leases.filter((lease) => !isOver(lease)) };
  const { planner, unassigned } = planSite(alive, figures, now);
  const decision: SiteDecision = {
    starts: [],
    suspends: [],
    resumes: [],
    moves: [],
    promises: [],
    broken,
    wakeAtS: null,
    hostsToList: [],
  };
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
      case 'stop':
        // Work is suspended, not stopped, and the record of an overdue lease ends later than now.
        throw new Error(`BUG: a site's plan stops no lease, and it has ${JSON.stringify(action)}`);
    }
  }
  decision.promises = changedPromises(alive, planner.state);
  decision.hostsToList = hostsToList(site, planner.state, ({ bound }) => bound);
  const wakeAt = Math.min(
    planner.wakeAt(now),
    nextRunningEndS(site.running ?? [], figures, now),
    unassigned.length > 0 ? now + recheckS : Number.POSITIVE_INFINITY,
  );
  // A promise is due and waits for its hosts: their release is reported, and the recheck covers a lost report.
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

/** Hosts of promises that have not started, where they differ from the ledger's. */
export function changedPromises(site: SiteState, state: PlanState): SiteDecision['promises'] {
  const before = new Map(site.leases.map((lease) => [lease.id, lease]));
  return state.upcoming.flatMap(({ lease, hosts: indices, bound }) => {
    const hosts = indices.map((host) => state.hosts[host]!.spec.id);
    const recorded = before.get(lease.id);
    const isRecorded = recorded !== undefined && recorded.bound === bound && String(recorded.hosts) === String(hosts);
    return isRecorded ? [] : [{ lease: lease.id, hosts, bound }];
  });
}

/**
 * Hosts on which promises need capacity of work that the plan has not as leases, and so cannot preempt. Their leases have to
 * be listed, in a plan made again.
 * @param isConcerned for which promises
 */
export function hostsToList(site: SiteState, state: PlanState, isConcerned: (record: LeaseRecord) => boolean): string[] {
  const unlisted = new Set(site.running?.map(({ host }) => host));
  if (unlisted.size === 0) return [];
  const found = state.upcoming.filter(isConcerned).flatMap((record) =>
    record.hosts.filter((host) => {
      const { spec, capacity } = state.hosts[host]!;
      return unlisted.has(spec.id) && !fits(state.timeline.planned[host]!.taken(vmStartAt(state, record)), capacity);
    }),
  );
  return [...new Set(found)].map((host) => state.hosts[host]!.spec.id);
}

const fits = (taken: Shape, capacity: Shape): boolean =>
  taken.cpuMilli <= capacity.cpuMilli && taken.memoryMiB <= capacity.memoryMiB && taken.diskMiB <= capacity.diskMiB;
