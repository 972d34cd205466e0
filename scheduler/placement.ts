import type { Resources } from '../model/host.ts';
import type { Refusal } from '../model/task.ts';
import {
  type ConstraintAnswer,
  type ConstraintFilter,
  checkConstraints,
  type GroupMembers,
  type LabelledHost,
  noMembers,
  PlannedMembers,
  strictRelation,
  type VmRules,
} from './constraints.ts';

/** A host as an input of placement. `used` may exceed `capacity` after the machine was made smaller. */
export interface PlacementHost extends LabelledHost {
  state: 'up' | 'unknown';
  schedulable: boolean;
  capacity: Resources;
  used: Resources;
  /** Ids of the images in its cache. */
  images: ReadonlySet<string>;
}

/** A waiting task: `nodes` VMs of one size, all or none. */
export interface PlacementRequest {
  id: string;
  nodes: number;
  /** What each VM takes. */
  perVm: Resources;
  imageId: string | null;
  /** How many younger tasks were placed while it waited for capacity. */
  overtaken: number;
  /** What it costs on each host that it may use, in any unit: the cheapest is taken. Absent: on every host the same. */
  hostCosts?: HostCosts;
  /** Absent: its VMs may run anywhere. */
  rules?: VmRules | null;
}

/** By the id of a host; one that is missing is not used. null: all are, at the same cost. */
export type HostCosts = ReadonlyMap<string, number> | null;

export interface PlacementLimits {
  /** A task that was overtaken this often is not overtaken again. */
  maxOvertaken: number;
  /** How many waiting tasks one pass considers, so that a pass over a long queue is short. */
  lookahead: number;
}

/** Why a host was refused, in the order of the checks; each host is counted at its first failure. */
export type PlacementFilter = 'unknown' | 'unschedulable' | 'offer' | ConstraintFilter | 'vcpus' | 'memory' | 'disk';

export type QueueVerdict =
  /** The host of each node. */
  | { kind: 'placed'; hosts: string[] }
  /** `queue` among the filters: it might fit, but an older task must not be overtaken. */
  | { kind: 'waits'; refusal: Refusal; overtaken: number }
  /** Larger than the empty site with all hosts up. */
  | { kind: 'impossible'; refusal: Refusal };

/** The cheap checks of the host first, then its sizes. null: the VM fits. */
function failedFilter(
  host: PlacementHost,
  { hostCosts }: PlacementRequest,
  answer: ConstraintAnswer,
  { used, needed }: { used: Resources; needed: Resources },
): PlacementFilter | null {
  if (host.state !== 'up') return 'unknown';
  if (!host.schedulable) return 'unschedulable';
  if (!mayUse(hostCosts, host)) return 'offer';
  if (answer.kind === 'refused') return answer.filter;
  return missingResource(host.capacity, used, needed);
}

function rulesAt({ rules }: PlacementRequest, host: LabelledHost, members: GroupMembers): ConstraintAnswer {
  return rules == null ? { kind: 'allowed', unmet: 0 } : checkConstraints({ host: null, ...rules }, host, members);
}

const mayUse = (costs: HostCosts | undefined, { id }: PlacementHost): boolean => costs == null || costs.has(id);

function missingResource(capacity: Resources, used: Resources, each: Resources): PlacementFilter | null {
  if (used.vcpus + each.vcpus > capacity.vcpus) return 'vcpus';
  if (used.memoryMiB + each.memoryMiB > capacity.memoryMiB) return 'memory';
  if (used.diskMiB + each.diskMiB > capacity.diskMiB) return 'disk';
  return null;
}

function addResources(a: Resources, b: Resources): Resources {
  return { vcpus: a.vcpus + b.vcpus, memoryMiB: a.memoryMiB + b.memoryMiB, diskMiB: a.diskMiB + b.diskMiB };
}

function times({ vcpus, memoryMiB, diskMiB }: Resources, count: number): Resources {
  return { vcpus: count * vcpus, memoryMiB: count * memoryMiB, diskMiB: count * diskMiB };
}

const nothing: Resources = { vcpus: 0, memoryMiB: 0, diskMiB: 0 };

/** The share of a host that is free with this much used, 0 to 1: the mean over vCPUs, memory and disk. */
function freeShare(capacity: Resources, used: Resources): number {
  const share = (have: number, taken: number) => (have === 0 ? 0 : (have - taken) / have);
  return (
    (share(capacity.vcpus, used.vcpus) + share(capacity.memoryMiB, used.memoryMiB) + share(capacity.diskMiB, used.diskMiB)) / 3
  );
}

interface Candidate {
  host: PlacementHost;
  /** Before all else: who pays by offers takes the cheapest that is there. */
  cost: number;
  /** Preferred rules that the host does not meet. */
  unmet: number;
  /** 0 if the image is cached: a fetch costs more than any other difference. */
  missingImage: 0 | 1;
  /** VMs of the same gang on the host: a gang is spread, so that the loss of one host is not the loss of the whole gang. */
  siblings: number;
  /** Best fit: the fullest host that has capacity, which keeps large gaps for large tasks. */
  freeShare: number;
}

function compareCandidates(a: Candidate, b: Candidate): number {
  return (
    a.cost - b.cost ||
    a.unmet - b.unmet ||
    a.missingImage - b.missingImage ||
    a.siblings - b.siblings ||
    a.freeShare - b.freeShare ||
    (a.host.id < b.host.id ? -1 : 1)
  );
}

/**
 * Finds a host for each VM of one request, or counts the hosts that failed each filter. The VMs are equal, so choosing the
 * best host for one after the other finds a placement whenever there is one: of VMs that stay together the first takes a host
 * that has room for all of them.
 * @param used what is taken of each host, by id; not changed
 * @param members of the groups of its rules, on all hosts; not changed
 */
export function placeGang(
  request: PlacementRequest,
  hosts: readonly PlacementHost[],
  used: ReadonlyMap<string, Resources>,
  members: GroupMembers = noMembers,
): { hosts: string[] } | { refusal: Refusal } {
  const taken = new Map(used);
  const { rules } = request;
  const planned = new PlannedMembers(members);
  const together = rules != null && strictRelation(rules) === 'together';
  const chosen: string[] = [];
  while (chosen.length < request.nodes) {
    const failed: Record<string, number> = {};
    const needed = together ? times(request.perVm, request.nodes - chosen.length) : request.perVm;
    let best: Candidate | null = null;
    for (const host of hosts) {
      const usedHere = taken.get(host.id) ?? nothing;
      const answer = rulesAt(request, host, planned.members);
      const filter = failedFilter(host, request, answer, { used: usedHere, needed });
      if (filter !== null) {
        failed[filter] = (failed[filter] ?? 0) + 1;
        continue;
      }
      const candidate: Candidate = {
        host,
        cost: request.hostCosts?.get(host.id) ?? 0,
        unmet: answer.kind === 'allowed' ? answer.unmet : 0,
        missingImage: request.imageId !== null && host.images.has(request.imageId) ? 0 : 1,
        siblings: chosen.filter((id) => id === host.id).length,
        freeShare: freeShare(host.capacity, addResources(usedHere, request.perVm)),
      };
      if (best === null || compareCandidates(candidate, best) < 0) best = candidate;
    }
    if (best === null) return { refusal: { hosts: hosts.length, failed } };
    chosen.push(best.host.id);
    if (rules != null) planned.add(rules, best.host.id);
    taken.set(best.host.id, addResources(taken.get(best.host.id) ?? nothing, request.perVm));
  }
  return { hosts: chosen };
}

/** How many VMs of this size the host could hold if it were empty. */
function emptyHostFitCount(host: PlacementHost, each: Resources): number {
  const times = (have: number, one: number) => (one === 0 ? Number.POSITIVE_INFINITY : Math.floor(have / one));
  return Math.min(
    times(host.capacity.vcpus, each.vcpus),
    times(host.capacity.memoryMiB, each.memoryMiB),
    times(host.capacity.diskMiB, each.diskMiB),
  );
}

/** On hosts that it may use, as far as its rules allow at this moment. */
function fitsEmptySite(request: PlacementRequest, hosts: readonly PlacementHost[], members: GroupMembers): boolean {
  const { nodes, perVm, hostCosts, rules } = request;
  const relation = rules == null ? null : strictRelation(rules);
  const counts = hosts
    .filter((host) => mayUse(hostCosts, host) && rulesAt(request, host, members).kind === 'allowed')
    .map((host) => Math.min(emptyHostFitCount(host, perVm), relation === 'apart' ? 1 : nodes));
  return relation === 'together' ? counts.includes(nodes) : counts.reduce((sum, count) => sum + count, 0) >= nodes;
}

/**
 * Why the request exceeds even the empty site with every host up; null if it does not, or if no host has registered yet. A
 * permanent refusal, unlike a lack of capacity.
 */
export function permanentRefusal(request: PlacementRequest, hosts: readonly PlacementHost[]): Refusal | null {
  // What offers give may come with the next host that joins, and so may labels.
  if (hosts.length === 0 || fitsEmptySite({ ...request, hostCosts: null, rules: null }, hosts, noMembers)) return null;
  const failed: Record<string, number> = {};
  for (const host of hosts) {
    const filter = missingResource(host.capacity, nothing, request.perVm);
    if (filter !== null) failed[filter] = (failed[filter] ?? 0) + 1;
  }
  // Each host could hold one of its VMs, but all hosts together not all of them.
  if (Object.keys(failed).length === 0) failed.nodes = hosts.length;
  return { hosts: hosts.length, failed };
}

/**
 * One pass over the queue, oldest first: tasks that fit are placed and may overtake older ones that don't, each of these at
 * most `maxOvertaken` times; then no younger task is placed before it, so that large tasks don't starve. Only a task that
 * waits for capacity blocks others: one that waits for hosts (all that could hold it are unknown or not schedulable) would
 * block the site without need. Pure and deterministic.
 * @param queue oldest first
 * @param members of the groups that the queue's rules name, on all hosts
 * @returns a verdict for each request considered, in the queue's order
 */
export function placeQueue(
  queue: readonly PlacementRequest[],
  hosts: readonly PlacementHost[],
  limits: PlacementLimits,
  members: GroupMembers = noMembers,
): { request: PlacementRequest; verdict: QueueVerdict }[] {
  const ordered = [...hosts].sort((a, b) => (a.id < b.id ? -1 : 1));
  const usable = ordered.filter((host) => host.state === 'up' && host.schedulable);
  const used = new Map(ordered.map((host) => [host.id, host.used]));
  const planned = new PlannedMembers(members);
  const waiting: { verdict: { overtaken: number } }[] = [];
  const answers: { request: PlacementRequest; verdict: QueueVerdict }[] = [];
  for (const request of queue.slice(0, limits.lookahead)) {
    const never = permanentRefusal(request, ordered);
    if (never !== null) {
      answers.push({ request, verdict: { kind: 'impossible', refusal: never } });
      continue;
    }
    const blocked = waiting.some((older) => older.verdict.overtaken >= limits.maxOvertaken);
    const found = blocked
      ? { refusal: { hosts: ordered.length, failed: { queue: ordered.length } } }
      : placeGang(request, ordered, used, planned.members);
    if ('hosts' in found) {
      for (const id of found.hosts) {
        used.set(id, addResources(used.get(id) ?? nothing, request.perVm));
        if (request.rules != null) planned.add(request.rules, id);
      }
      for (const older of waiting) older.verdict.overtaken += 1;
      answers.push({ request, verdict: { kind: 'placed', hosts: found.hosts } });
      continue;
    }
    const verdict = { kind: 'waits' as const, refusal: found.refusal, overtaken: request.overtaken };
    answers.push({ request, verdict });
    if (fitsEmptySite(request, usable, planned.members)) waiting.push({ verdict });
  }
  return answers;
}
