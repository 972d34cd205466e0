import type { AdmissionDecision } from '../leases/admission.ts';
import { ceilSeconds } from '../leases/plan-state.ts';
import type { SimulatedAction, SimulatedObservation } from './actions.ts';
import type { SimulationPolicy } from './configurations.ts';
import { SimulatedPlanner } from './simulated-planner.ts';
import { hostsOf, type Trace, type TraceLease } from './trace.ts';

/** All decisions and their results: the input of the metrics, the audit and the plot. */
export interface Schedule {
  policy: SimulationPolicy;
  actions: SimulatedAction[];
  answers: Map<string, AdmissionDecision>;
  /** When each lease's work was done. */
  endedAtS: Map<string, number>;
  /** Accepted drains. */
  drained: { host: string; fromS: number; untilS: number }[];
}

/** A host's loss or drain during a simulation. */
export type HostDisruption =
  | { lose: string; atS: number; untilS: number }
  /** Requested at `atS`; the planner may refuse it. */
  | { drain: string; atS: number; fromS: number; untilS: number };

export interface SimulationOptions {
  disruptions?: readonly HostDisruption[];
  /** The planner is replaced by one restored from its snapshot before every decision. */
  restarts?: boolean;
}

interface SimulationEvent {
  at: number;
  order: number;
  seq: number;
  event:
    | { submit: TraceLease }
    | { observed: SimulatedObservation; valid: () => boolean }
    | { drain: Extract<HostDisruption, { drain: string }> }
    | { wake: true };
}

/** Of each lease and each disruption. A planner that works takes fewer than ten. */
const maxStepsPerEntry = 100;

/**
 * Runs a trace through the planner. The simulator knows how long work really takes, executes the planner's actions and
 * reports the results. Events of one moment have a fixed order: ends, then submissions, then the planner's decision.
 * @throws Error when the planner's decisions come to no end
 */
export function simulate(trace: Trace, policy: SimulationPolicy, options: SimulationOptions = {}): Schedule {
  return new Simulation(trace, policy, options).run();
}

/** One site, event by event: of several at once, each is advanced to the time of the earliest. */
export class Simulation {
  private readonly trace: Trace;
  private readonly policy: SimulationPolicy;
  private readonly options: SimulationOptions;
  private planner: SimulatedPlanner;
  private readonly events = new EventQueue();
  private readonly leases: Map<string, TraceLease>;
  /** Work done so far, and when the current run began; the run's number distinguishes a stale end from a current one. */
  private readonly progress = new Map<string, { doneS: number; runFrom: number | null; run: number }>();
  readonly schedule: Schedule;

  constructor(trace: Trace, policy: SimulationPolicy, options: SimulationOptions) {
    this.trace = trace;
    this.options = options;
    this.policy = policy;
    this.planner = SimulatedPlanner.create(hostsOf(trace), policy);
    this.leases = new Map(trace.leases.map((lease) => [lease.id, lease]));
    this.schedule = { policy, actions: [], answers: new Map(), endedAtS: new Map(), drained: [] };
  }

  run(): Schedule {
    for (const lease of this.trace.leases) this.events.push(lease.submittedAtS, 1, { submit: lease });
    for (const disruption of this.options.disruptions ?? []) this.scheduleDisruption(disruption);
    let stepsLeft = maxStepsPerEntry * (this.trace.leases.length + (this.options.disruptions?.length ?? 0) + 1);
    for (let at = this.nextAt(); at !== null; at = this.nextAt()) {
      if (stepsLeft === 0)
        throw new Error(`the planner gets nowhere at ${at} s: it decides again and again, and work does not end`);
      stepsLeft -= 1;
      this.step();
    }
    return this.schedule;
  }

  /** When something happens next; null: never again. */
  nextAt(): number | null {
    return this.events.nextAt();
  }

  /** What happens at that time, and the planner's decision after it. */
  step(): void {
    const at = this.events.nextAt();
    if (at === null) return;
    this.events.takeAll(at, (event) => this.handleEvent(event, at));
    if (this.options.restarts === true) this.planner = SimulatedPlanner.restore(this.planner.snapshot());
    for (const action of this.planner.decide(at)) this.applyAction(action);
    const wake = this.planner.wakeAt(at);
    if (wake !== Number.POSITIVE_INFINITY && wake > at && wake < (this.events.nextAt() ?? Number.POSITIVE_INFINITY)) {
      this.events.push(wake, 2, { wake: true });
    }
  }

  /** A lease that is not in the trace, at a time that is not over; whether it was accepted. */
  submit(lease: TraceLease, at: number): boolean {
    this.leases.set(lease.id, lease);
    this.events.push(at, 1, { submit: lease });
    while ((this.nextAt() ?? Number.POSITIVE_INFINITY) <= at) this.step();
    return this.schedule.answers.get(lease.id)!.accepted;
  }

  /** VM seconds that are left of what waits and runs, by the planner's knowledge. */
  loadS(now: number): number {
    let sum = 0;
    for (const { phase, lease, remainingWorkS, expectedEnd } of this.planner.state.leases.values()) {
      if (phase === 'ended') continue;
      sum += lease.nodes * (phase === 'running' ? Math.max(0, expectedEnd - now) : remainingWorkS);
    }
    return sum;
  }

  private scheduleDisruption(disruption: HostDisruption): void {
    if ('drain' in disruption) this.events.push(disruption.atS, 1, { drain: disruption });
    else {
      this.report(disruption.atS, { kind: 'hostLost', host: disruption.lose });
      this.report(disruption.untilS, { kind: 'hostBack', host: disruption.lose });
    }
  }

  private handleEvent(event: SimulationEvent['event'], at: number): void {
    if ('submit' in event) {
      const { actualDurationS: _, ...lease } = event.submit;
      this.schedule.answers.set(lease.id, this.planner.submit(lease, at));
    } else if ('drain' in event) {
      const { drain: host, fromS, untilS } = event.drain;
      if (this.planner.drain(host, fromS, untilS, at).accepted) this.schedule.drained.push({ host, fromS, untilS });
    } else if ('observed' in event && event.valid()) {
      if (event.observed.kind === 'ended') this.schedule.endedAtS.set(event.observed.lease, at);
      this.planner.observe(event.observed, at);
    }
  }

  private applyAction(action: SimulatedAction): void {
    this.schedule.actions.push(action);
    switch (action.kind) {
      case 'transfer':
        this.report(action.untilS, { kind: 'transferred' });
        return;
      case 'start':
        this.progress.set(action.lease, { doneS: 0, runFrom: null, run: 0 });
        this.runWork(action.lease, action.workFromS);
        return;
      case 'resume':
        this.runWork(action.lease, action.workFromS);
        this.report(action.workFromS, { kind: 'resumed', lease: action.lease }, this.unlessStopped(action.lease));
        return;
      case 'suspend': {
        this.pauseWork(action.lease, action.fromS);
        this.report(action.untilS, { kind: 'suspended', lease: action.lease }, this.unlessStopped(action.lease));
        return;
      }
      case 'stop':
        this.pauseWork(action.lease, action.atS);
        return;
      case 'migrate':
        this.report(action.untilS, { kind: 'migrated', lease: action.lease }, this.unlessStopped(action.lease));
        return;
      case 'breakPromise':
        if (this.progress.has(action.lease)) this.pauseWork(action.lease, action.atS);
        return;
      case 'evict':
        return;
    }
  }

  /** A condition for reports about work: false once the work was stopped. */
  private unlessStopped(id: string): () => boolean {
    const progress = this.progress.get(id)!;
    const { run } = progress;
    return () => progress.run === run && this.progress.get(id) === progress;
  }

  private report(at: number, observed: SimulatedObservation, valid: () => boolean = () => true): void {
    this.events.push(at, 0, { observed, valid });
  }

  private runWork(id: string, from: number): void {
    const progress = this.progress.get(id)!;
    progress.runFrom = from;
    const run = ++progress.run;
    this.report(from + this.workS(id) - progress.doneS, { kind: 'ended', lease: id }, () => progress.run === run);
  }

  private pauseWork(id: string, at: number): void {
    const progress = this.progress.get(id)!;
    if (progress.runFrom !== null) progress.doneS += Math.max(0, at - progress.runFrom);
    progress.runFrom = null;
    progress.run++;
  }

  /** The work's real duration: at most the requested time, after which the lease ends. */
  private workS(id: string): number {
    const lease = this.leases.get(id)!;
    const requested = Math.min(lease.actualDurationS ?? lease.durationS, lease.durationS);
    return lease.kind === 'bestEffort' ? ceilSeconds(requested * (1 + this.policy.runtimeOverhead)) : requested;
  }
}

/** A binary heap by time, then kind, then order of arrival. */
class EventQueue {
  private readonly heap: SimulationEvent[] = [];
  private seq = 0;

  nextAt(): number | null {
    return this.heap[0]?.at ?? null;
  }

  push(at: number, order: number, event: SimulationEvent['event']): void {
    this.heap.push({ at, order, seq: this.seq++, event });
    let i = this.heap.length - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!before(this.heap[i]!, this.heap[parent]!)) break;
      this.swap(i, parent);
      i = parent;
    }
  }

  takeAll(at: number, take: (event: SimulationEvent['event']) => void): void {
    while (this.heap[0]?.at === at) take(this.pop().event);
  }

  private pop(): SimulationEvent {
    const top = this.heap[0]!;
    const last = this.heap.pop()!;
    if (this.heap.length > 0) {
      this.heap[0] = last;
      let i = 0;
      for (;;) {
        let least = i;
        for (const child of [2 * i + 1, 2 * i + 2]) {
          if (child < this.heap.length && before(this.heap[child]!, this.heap[least]!)) least = child;
        }
        if (least === i) break;
        this.swap(i, least);
        i = least;
      }
    }
    return top;
  }

  private swap(a: number, b: number): void {
    const held = this.heap[a]!;
    this.heap[a] = this.heap[b]!;
    this.heap[b] = held;
  }
}

function before(a: SimulationEvent, b: SimulationEvent): boolean {
  return a.at !== b.at ? a.at < b.at : a.order !== b.order ? a.order < b.order : a.seq < b.seq;
}
