import { fitCount, type Shape } from './lease.ts';
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

function preemptionsFor(state: PlanState, reservations: readonly LeaseRecord[]): Preemption[] {
  const preempted = new Set<LeaseRecord>();
  const found: { record: LeaseRecord; preemptor: Preemptor }[] = [];
  const all = preemptorsOf(state, reservations);
  for (const preemptor of all) {
    for (const host of new Set(preemptor.hosts)) {
      while (isOverloadedAt(state, host, preemptor.begins, preempted)) {
        const victim = chooseVictim(state, host, preemptor.begins, preempted);
        if (victim === undefined) break;
        found.push({ record: victim, preemptor });
        preempted.add(victim);
      }
    }
  }
  return found.length === 0 ? [] : latestSuspendTimes(state, found, all, preempted);
}

function preemptorsOf(state: PlanState, reservations: readonly LeaseRecord[]): Preemptor[] {
  const list: Preemptor[] = reservations.map((record) => ({ begins: vmStartAt(state, record), hosts: record.hosts }));
  for (const [host, { drain }] of state.hosts.entries()) if (drain !== null) list.push({ begins: drain.from, hosts: [host] });
  return list.sort((a, b) => a.begins - b.begins);
}

function isOverloadedAt(state: PlanState, host: number, at: number, preempted: ReadonlySet<LeaseRecord>): boolean {
  const taken = takenAt(state, host, at, preempted);
  const { capacity } = state.hosts[host]!;
  return taken.cpuMilli > capacity.cpuMilli || taken.memoryMiB > capacity.memoryMiB || taken.diskMiB > capacity.diskMiB;
}

/** Promised capacity, and that of preemptible work that still runs then and is not preempted yet. */
function takenAt(state: PlanState, host: number, at: number, preempted: ReadonlySet<LeaseRecord>): Shape {
  const taken = { ...state.timeline.promised[host]!.taken(at) };
  for (const running of state.preemptibleByHost[host]!) {
    if (preempted.has(running) || running.expectedEnd <= at) continue;
    for (const vmHost of running.hosts) if (vmHost === host) addShape(taken, running.shape);
  }
  return taken;
}

function addShape(sum: Shape, shape: Shape): void {
  sum.cpuMilli += shape.cpuMilli;
  sum.memoryMiB += shape.memoryMiB;
  sum.diskMiB += shape.diskMiB;
}

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

/**
 * From the last victim backwards: VMs on a preemptor's hosts are suspended as late as possible, one at a time on each host.
 * Then the other VMs of the same gangs, as soon as their work has stopped.
 */
function latestSuspendTimes(
  state: PlanState,
  found: readonly { record: LeaseRecord; preemptor: Preemptor }[],
  all: readonly Preemptor[],
  preempted: ReadonlySet<LeaseRecord>,
): Preemption[] {
  if (!state.policy.suspension) return found.map(({ record, preemptor }) => ({ record, at: preemptor.begins, ops: [] }));
  const busy = state.hosts.map((host) => byStart(host.memoryOps));
  const occupy = (host: number, from: number, until: number) => {
    busy[host] = byStart([...busy[host]!, { from, until }]);
  };
  const list: Preemption[] = [];
  for (const { record, preemptor } of found.toReversed()) {
    const preemption: Preemption = { record, at: preemptor.begins, ops: [] };
    for (const [vm, host] of record.hosts.entries()) {
      if (!preemptor.hosts.includes(host)) continue;
      const length = memoryOpS(state, host, record.shape);
      const from = latestGap(busy[host]!, preemptor.begins - state.policy.marginS, length);
      occupy(host, from, from + length);
      preemption.ops.push({ vm, host, from, until: from + length });
      preemption.at = Math.min(preemption.at, from);
    }
    list.push(preemption);
  }
  for (const preemption of list) {
    const { record, ops } = preemption;
    for (const [host, vms] of unsuspendedVmsByHost(record, ops)) {
      const by = suspendDeadlines(state, all, record, host, preempted, vms.length);
      const spans = scheduleSuspends(busy[host]!, by, memoryOpS(state, host, record.shape), preemption.at);
      for (const [i, { from, until }] of spans.entries()) {
        occupy(host, from, until);
        ops.push({ vm: vms[i]!, host, from, until });
        preemption.at = Math.min(preemption.at, from);
      }
    }
  }
  return list;
}

/** The VMs of a lease that have no suspend operation yet, by host. */
function unsuspendedVmsByHost({ hosts }: LeaseRecord, ops: Preemption['ops']): Map<number, number[]> {
  const byHost = new Map<number, number[]>();
  for (const [vm, host] of hosts.entries()) {
    if (ops.some((op) => op.vm === vm)) continue;
    byHost.set(host, [...(byHost.get(host) ?? []), vm]);
  }
  return byHost;
}

/**
 * By when each VM of a preempted lease on a host must be suspended, one after the other, so that every preemptor that
 * begins there fits: also those that relied on the lease's own end.
 */
function suspendDeadlines(
  state: PlanState,
  all: readonly Preemptor[],
  { shape }: LeaseRecord,
  host: number,
  preempted: ReadonlySet<LeaseRecord>,
  count: number,
): number[] {
  const by = new Array<number>(count).fill(Number.POSITIVE_INFINITY);
  for (const { begins, hosts } of all) {
    if (!hosts.includes(host)) continue;
    const stillFitting = Math.max(0, fitCount(state.hosts[host]!.capacity, takenAt(state, host, begins, preempted), shape));
    for (let i = 0; i < count - stillFitting; i++) by[i] = Math.min(by[i]!, begins - state.policy.marginS);
  }
  return by;
}

interface Span {
  from: number;
  until: number;
}
type Busy = readonly Span[];

const byStart = (spans: Busy): Busy => spans.toSorted((a, b) => a.from - b.from);

/** One after the other from a moment on; if one would miss its deadline, all those with deadlines as late as possible. */
function scheduleSuspends(busy: Busy, by: readonly number[], length: number, from: number): Span[] {
  const early: Span[] = [];
  while (early.length < by.length) early.push(next(early));
  if (early.every(({ until }, i) => until <= by[i]!)) return early;
  const late: Span[] = [];
  for (const end of by.filter(Number.isFinite).toReversed()) {
    const start = latestGap(byStart([...busy, ...late]), end, length);
    late.unshift({ from: start, until: start + length });
  }
  while (late.length < by.length) late.push(next(late));
  return late;

  function next(spans: readonly Span[]): Span {
    const start = earliestGap(byStart([...busy, ...spans]), from, length);
    return { from: start, until: start + length };
  }
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
