import type { Shape } from './lease.ts';
import { type LeaseRecord, memoryOpS, type PlanState, vmStartAt } from './plan-state.ts';

/** Work to suspend (or, without suspension, to stop) from `at` on, so that its hosts are free in time. */
export interface Preemption {
  record: LeaseRecord;
  at: number;
  /** When each of its VMs is suspended. */
  ops: { vm: number; host: number; from: number; until: number }[];
}

/** What takes hosts from best-effort work at a moment: a bound reservation that has not started, or a drain. */
interface Preemptor {
  begins: number;
  hosts: readonly number[];
}

/**
 * Which work is preempted for reservations that are bound, and when. Computed anew from what runs now, so that work that
 * ends early saves others from preemption. On each host the suspends run one after the other, and the last one ends when
 * the preemptor begins.
 */
export function plannedPreemptions(state: PlanState): Preemption[] {
  return preemptionsFor(
    state,
    state.upcoming.filter((record) => record.bound),
  );
}

/**
 * Whether gangs that a new reservation, whose allocations are in place, preempts can be suspended on all of their hosts in
 * time: reservations on those hosts may rely on the gang's own end.
 */
export function canPreemptGangsInTime(state: PlanState, record: LeaseRecord, now: number): boolean {
  const begins = vmStartAt(state, record);
  const isGang = (running: LeaseRecord) => running.expectedEnd > begins && new Set(running.hosts).size > 1;
  if (!state.policy.suspension || !record.hosts.some((host) => [...state.preemptibleByHost[host]!].some(isGang))) return true;
  const tooLate = (reservations: readonly LeaseRecord[]) =>
    preemptionsFor(state, reservations).filter(({ at }) => at < now).length;
  return tooLate([...state.upcoming, record]) <= tooLate(state.upcoming);
}

/** What is on hosts beside promises. */
interface PreemptionContext {
  state: PlanState;
  preempted: Set<LeaseRecord>;
  /** VMs whose suspend has begun, by host. */
  suspending: ReadonlyMap<number, { shape: Shape; until: number }[]>;
}

function suspendingByHost({ underway }: PlanState): PreemptionContext['suspending'] {
  const byHost = new Map<number, { shape: Shape; until: number }[]>();
  for (const { phase, allocations, shape } of underway) {
    if (phase !== 'suspending') continue;
    for (const { host, to } of allocations) byHost.set(host, [...(byHost.get(host) ?? []), { shape, until: to }]);
  }
  return byHost;
}

function preemptionsFor(state: PlanState, reservations: readonly LeaseRecord[]): Preemption[] {
  const context: PreemptionContext = { state, preempted: new Set(), suspending: suspendingByHost(state) };
  const { preempted } = context;
  const found: { record: LeaseRecord; preemptor: Preemptor }[] = [];
  const all = preemptorsOf(state, reservations);
  for (const preemptor of all) {
    for (const host of new Set(preemptor.hosts)) {
      while (isOverloadedAt(context, host, preemptor.begins)) {
        const victim = chooseVictim(state, host, preemptor.begins, preempted);
        if (victim === undefined) break;
        found.push({ record: victim, preemptor });
        preempted.add(victim);
      }
    }
  }
  return found.length === 0 ? [] : latestSuspendTimes(context, found, all);
}

function preemptorsOf(state: PlanState, reservations: readonly LeaseRecord[]): Preemptor[] {
  const list: Preemptor[] = reservations.map((record) => ({ begins: vmStartAt(state, record), hosts: record.hosts }));
  for (const [host, { drain }] of state.hosts.entries()) if (drain !== null) list.push({ begins: drain.from, hosts: [host] });
  return list.sort((a, b) => a.begins - b.begins);
}

function isOverloadedAt(context: PreemptionContext, host: number, at: number): boolean {
  return isOver(takenAt(context, host, at), context.state.hosts[host]!.capacity);
}

/**
 * Promised capacity, that of preemptible work that still runs then and is not preempted yet, and that of VMs whose suspend
 * has begun and is not over then: what stays beside them was decided with them.
 */
function takenAt({ state, preempted, suspending }: PreemptionContext, host: number, at: number): Shape {
  const taken = { ...state.timeline.promised[host]!.taken(at) };
  for (const running of state.preemptibleByHost[host]!) {
    if (preempted.has(running) || running.expectedEnd <= at) continue;
    for (const vmHost of running.hosts) if (vmHost === host) addShape(taken, running.shape);
  }
  for (const { shape, until } of suspending.get(host) ?? []) if (until > at) addShape(taken, shape);
  return taken;
}

function addShape(sum: Shape, shape: Shape, count = 1): void {
  sum.cpuMilli += count * shape.cpuMilli;
  sum.memoryMiB += count * shape.memoryMiB;
  sum.diskMiB += count * shape.diskMiB;
}

const isOver = (taken: Shape, capacity: Shape): boolean =>
  taken.cpuMilli > capacity.cpuMilli || taken.memoryMiB > capacity.memoryMiB || taken.diskMiB > capacity.diskMiB;

/**
 * With suspension: single VMs before gangs (whose other VMs would idle), then the lease with the latest end. Without: the
 * lease that loses the least work.
 */
function chooseVictim(state: PlanState, host: number, at: number, preempted: ReadonlySet<LeaseRecord>): LeaseRecord | undefined {
  const running = [...state.preemptibleByHost[host]!].filter((r) => !preempted.has(r) && r.expectedEnd > at);
  const harm = (r: LeaseRecord) =>
    state.policy.suspension ? r.lease.nodes * 1e9 - r.expectedEnd : (at - r.runFrom) * r.lease.nodes;
  return running.sort((a, b) => harm(a) - harm(b) || b.rank - a.rank || b.seq - a.seq)[0];
}

/** The suspend of one VM of a preempted lease on its host. */
interface Suspend {
  preemption: Preemption;
  vm: number;
  lengthS: number;
  /** When it has to be over, so that every preemptor that begins on the host fits; Infinity: none needs it. */
  by: number;
}

/**
 * The suspends that preemptors need are over as late as possible, one at a time on each host; those set when a lease's work
 * stops. Its other VMs are suspended as soon as it has.
 */
function latestSuspendTimes(
  context: PreemptionContext,
  found: readonly { record: LeaseRecord; preemptor: Preemptor }[],
  all: readonly Preemptor[],
): Preemption[] {
  const { state } = context;
  if (!state.policy.suspension) return found.map(({ record, preemptor }) => ({ record, at: preemptor.begins, ops: [] }));
  // Of equals the last victim works longest: it ends next, perhaps before it is suspended.
  const list = found.toReversed().map(({ record, preemptor }): Preemption => ({ record, at: preemptor.begins, ops: [] }));
  const hosts = suspendsByHost(state, list);
  for (const [host, suspends] of hosts) {
    setDeadlines(context, all, host, suspends);
    for (const [{ preemption }, { from }] of scheduleLate(byStart(state.hosts[host]!.memoryOps), suspends))
      preemption.at = Math.min(preemption.at, from);
  }
  for (const [host, suspends] of hosts)
    for (const [{ preemption, vm }, span] of schedule(byStart(state.hosts[host]!.memoryOps), suspends))
      preemption.ops.push({ vm, host, ...span });
  return list;
}

function suspendsByHost(state: PlanState, preemptions: readonly Preemption[]): Map<number, Suspend[]> {
  const byHost = new Map<number, Suspend[]>();
  for (const preemption of preemptions)
    for (const [vm, host] of preemption.record.hosts.entries()) {
      const lengthS = memoryOpS(state, host, preemption.record.shape);
      const suspends = byHost.get(host) ?? [];
      byHost.set(host, suspends);
      suspends.push({ preemption, vm, lengthS, by: Number.POSITIVE_INFINITY });
    }
  return byHost;
}

/**
 * Each preemptor in turn gets as many of the VMs out of its way as it needs to fit, also where it relied on a lease's own
 * end. A VM of a gang that is preempted for another host stays where there is capacity beside the promise: it would need a
 * suspend of its own before those of others, earlier than anyone reckons with.
 */
function setDeadlines(context: PreemptionContext, all: readonly Preemptor[], host: number, suspends: readonly Suspend[]): void {
  const staying = suspends.toSorted((a, b) => a.preemption.at - b.preemption.at);
  const { capacity } = context.state.hosts[host]!;
  for (const { begins, hosts } of all) {
    if (!hosts.includes(host)) continue;
    const taken = takenAt(context, host, begins);
    for (const { preemption } of staying) addShape(taken, preemption.record.shape);
    while (isOver(taken, capacity)) {
      const leaving = staying.shift();
      if (leaving === undefined) return;
      leaving.by = begins - context.state.policy.marginS;
      addShape(taken, leaving.preemption.record.shape, -1);
    }
  }
}

interface Span {
  from: number;
  until: number;
}
type Busy = readonly Span[];

const byStart = (spans: Busy): Busy => spans.toSorted((a, b) => a.from - b.from);

/** Those with a deadline, each as late as possible: the latest deadline first, which leaves the most time for the others. */
function scheduleLate(busy: Busy, suspends: readonly Suspend[]): Map<Suspend, Span> {
  const spans = new Map<Suspend, Span>();
  for (const suspend of suspends.toSorted((a, b) => b.by - a.by)) {
    if (suspend.by === Number.POSITIVE_INFINITY) continue;
    const from = latestGap(byStart([...busy, ...spans.values()]), suspend.by, suspend.lengthS);
    spans.set(suspend, { from, until: from + suspend.lengthS });
  }
  return spans;
}

/** One after the other as soon as the work has stopped; if one would miss its deadline, all those with deadlines late. */
function schedule(busy: Busy, suspends: readonly Suspend[]): Map<Suspend, Span> {
  const ordered = suspends.toSorted((a, b) => a.by - b.by || a.preemption.at - b.preemption.at);
  const early = addEarly(busy, ordered, new Map());
  if (ordered.every((suspend) => early.get(suspend)!.until <= suspend.by)) return early;
  return addEarly(busy, ordered, scheduleLate(busy, suspends));
}

/** Adds those that are not scheduled yet, each at the first free moment after its work has stopped. */
function addEarly(busy: Busy, suspends: readonly Suspend[], spans: Map<Suspend, Span>): Map<Suspend, Span> {
  for (const suspend of suspends) {
    if (spans.has(suspend)) continue;
    const from = earliestGap(byStart([...busy, ...spans.values()]), suspend.preemption.at, suspend.lengthS);
    spans.set(suspend, { from, until: from + suspend.lengthS });
  }
  return spans;
}

/** The last free moment that ends by `end`; `busy` by start. */
function latestGap(busy: Busy, end: number, length: number): number {
  let until = end;
  for (const op of busy.toReversed()) {
    if (op.until <= until - length) break;
    if (op.from < until) until = op.from;
  }
  return until - length;
}

/** The first free moment from `from` on; `busy` by start. */
function earliestGap(busy: Busy, from: number, length: number): number {
  let start = from;
  for (const op of busy) {
    if (op.from >= start + length) break;
    start = Math.max(start, op.until);
  }
  return start;
}
