import { fitCount, type Shape } from './lease.ts';
import { type LeaseRecord, memoryOpS, type PlanState, vmStartAt } from './plan-state.ts';

/** Work to be suspended (or, without suspension, stopped) from `at` on, so that its hosts are free in time. */
export interface Preemption {
  record: LeaseRecord;
  at: number;
  /** When each of its VMs is written. */
  ops: { vm: number; host: number; from: number; until: number }[];
}

/** What takes hosts away from best-effort work at a moment: a bound reservation that has not begun, or a drain. */
interface Preemptor {
  begins: number;
  hosts: readonly number[];
}

/**
 * Who must give way to what is bound to begin, and when. Computed afresh from what runs now, so that work that ends
 * early spares others. On each host the suspends run one after the other and the last ends when the taker begins.
 */
export function plannedPreemptions(state: PlanState): Preemption[] {
  return preemptionsFor(
    state,
    state.upcoming.filter((record) => record.bound),
  );
}

/**
 * Whether gangs that give way to a new reservation, whose claims are in place, can leave all of their hosts in time: some
 * may have promises that relied on their ending by themselves.
 */
export function canPreemptGangsInTime(state: PlanState, record: LeaseRecord, now: number): boolean {
  const begins = vmStartAt(state, record);
  const isGang = (resident: LeaseRecord) => resident.expectedEnd > begins && new Set(resident.hosts).size > 1;
  if (!state.policy.suspension || !record.hosts.some((host) => [...state.preemptibleByHost[host]!].some(isGang))) return true;
  const tooLate = (reservations: readonly LeaseRecord[]) =>
    preemptionsFor(state, reservations).filter(({ at }) => at < now).length;
  return tooLate([...state.upcoming, record]) <= tooLate(state.upcoming);
}

function preemptionsFor(state: PlanState, reservations: readonly LeaseRecord[]): Preemption[] {
  const preempted = new Set<LeaseRecord>();
  const found: { record: LeaseRecord; taker: Preemptor }[] = [];
  const all = preemptorsOf(state, reservations);
  for (const taker of all) {
    for (const host of new Set(taker.hosts)) {
      while (isOverloadedAt(state, host, taker.begins, preempted)) {
        const victim = chooseVictim(state, host, taker.begins, preempted);
        if (victim === undefined) break;
        found.push({ record: victim, taker });
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

/** By promises, and by whoever runs there still and isn't among the gone. */
function takenAt(state: PlanState, host: number, at: number, preempted: ReadonlySet<LeaseRecord>): Shape {
  const taken = { ...state.timeline.promised[host]!.taken(at) };
  for (const resident of state.preemptibleByHost[host]!) {
    if (preempted.has(resident) || resident.expectedEnd <= at) continue;
    for (const place of resident.hosts) if (place === host) addShape(taken, resident.shape);
  }
  return taken;
}

function addShape(sum: Shape, shape: Shape): void {
  sum.cpuMilli += shape.cpuMilli;
  sum.memoryMiB += shape.memoryMiB;
  sum.diskMiB += shape.diskMiB;
}

/**
 * With suspension, single VMs before gangs (whose siblings would idle), then whoever has most left to do. Without, whoever
 * loses least.
 */
function chooseVictim(state: PlanState, host: number, at: number, preempted: ReadonlySet<LeaseRecord>): LeaseRecord | undefined {
  const running = [...state.preemptibleByHost[host]!].filter((r) => !preempted.has(r) && r.expectedEnd > at);
  const harm = (r: LeaseRecord) =>
    state.policy.suspension ? r.lease.nodes * 1e9 - r.expectedEnd : (at - r.runFrom) * r.lease.nodes;
  return running.sort((a, b) => harm(a) - harm(b) || b.rank - a.rank || b.seq - a.seq)[0];
}

/**
 * From the last victim backwards: what a taker needs written is written as late as possible, one VM at a time on each
 * host. Then the siblings of those VMs on other hosts, as soon as their work has stopped.
 */
function latestSuspendTimes(
  state: PlanState,
  found: readonly { record: LeaseRecord; taker: Preemptor }[],
  all: readonly Preemptor[],
  preempted: ReadonlySet<LeaseRecord>,
): Preemption[] {
  if (!state.policy.suspension) return found.map(({ record, taker }) => ({ record, at: taker.begins, ops: [] }));
  const busy = state.hosts.map((host) => byStart(host.memoryOps));
  const occupy = (host: number, from: number, until: number) => {
    busy[host] = byStart([...busy[host]!, { from, until }]);
  };
  const list: Preemption[] = [];
  for (const { record, taker } of found.toReversed()) {
    const displacement: Preemption = { record, at: taker.begins, ops: [] };
    for (const [vm, host] of record.hosts.entries()) {
      if (!taker.hosts.includes(host)) continue;
      const length = memoryOpS(state, host, record.shape);
      const from = latestGap(busy[host]!, taker.begins - state.policy.marginS, length);
      occupy(host, from, from + length);
      displacement.ops.push({ vm, host, from, until: from + length });
      displacement.at = Math.min(displacement.at, from);
    }
    list.push(displacement);
  }
  for (const displacement of list) {
    const { record, ops } = displacement;
    for (const [host, vms] of unsuspendedVmsByHost(record, ops)) {
      const by = suspendDeadlines(state, all, record, host, preempted, vms.length);
      const spans = scheduleSuspends(busy[host]!, by, memoryOpS(state, host, record.shape), displacement.at);
      for (const [i, { from, until }] of spans.entries()) {
        occupy(host, from, until);
        ops.push({ vm: vms[i]!, host, from, until });
        displacement.at = Math.min(displacement.at, from);
      }
    }
  }
  return list;
}

/** The VMs of a lease that are not written yet, by host. */
function unsuspendedVmsByHost({ hosts }: LeaseRecord, ops: Preemption['ops']): Map<number, number[]> {
  const left = new Map<number, number[]>();
  for (const [vm, host] of hosts.entries()) {
    if (ops.some((op) => op.vm === vm)) continue;
    left.set(host, [...(left.get(host) ?? []), vm]);
  }
  return left;
}

/**
 * By when each of the VMs that a stopped lease has on a host must be written, one after the other, so that whoever is to
 * begin there has room: also those who relied on its ending by itself.
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

/** One after the other from a moment on; where one isn't over by its time, all that have one as late as they may be. */
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
export function earliestGap(busy: Busy, from: number, length: number): number {
  let start = from;
  for (const op of busy) {
    if (op.from >= start + length) break;
    start = Math.max(start, op.until);
  }
  return start;
}
