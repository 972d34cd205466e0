import type { SimulationPolicy } from '../configurations.ts';
import { type Schedule, Simulation } from '../simulator.ts';
import type { Trace, TraceLease } from '../trace.ts';

/**
 * A site in cells: its hosts are divided, each part with a ledger and a planner of its own, and a router in front gives each lease
 * to one of them. The router keeps nothing but summaries of the cells' loads, which are as old as their refresh, and what it has
 * given them since: the least loaded is asked first, and where it refuses, the next.
 */

/** How old the router's summaries become (s). */
const refreshS = 10;

export interface Cell {
  /** Its hosts, and the leases that it was given and has not passed on. */
  trace: Trace;
  schedule: Schedule;
  /** Processor time of its planner (s). */
  cpuS: number;
}

export interface CellsSchedule {
  cells: Cell[];
  /** Leases that another cell was asked for first. */
  passedOn: number;
}

class RoutedCell {
  readonly simulation: Simulation;
  readonly trace: Trace;
  cpuS = 0;
  /** VM seconds for each host, as the router knows it. */
  load = 0;

  constructor(trace: Trace, policy: SimulationPolicy) {
    this.trace = trace;
    this.simulation = new Simulation(trace, policy, {});
  }

  timed<T>(act: () => T): T {
    const before = process.cpuUsage();
    const result = act();
    const { user, system } = process.cpuUsage(before);
    this.cpuS += (user + system) / 1e6;
    return result;
  }

  /** All that happens before a time. */
  advance(before: number): void {
    const { simulation } = this;
    if ((simulation.nextAt() ?? Number.POSITIVE_INFINITY) >= before) return;
    this.timed(() => {
      while ((simulation.nextAt() ?? Number.POSITIVE_INFINITY) < before) simulation.step();
    });
  }

  summarize(now: number): void {
    this.load = this.simulation.loadS(now) / this.trace.hosts.count;
  }

  /** Whether the cell takes it; the router counts it in either case until the next summary, as it knows no better. */
  submit(lease: TraceLease, now: number): boolean {
    this.load += (lease.nodes * lease.durationS) / this.trace.hosts.count;
    const accepted = this.timed(() => this.simulation.submit(lease, now));
    if (accepted) this.trace.leases.push(lease);
    return accepted;
  }
}

/** @param count at most as many as hosts; the last cells have one host less where they do not divide evenly */
export function simulateCells(trace: Trace, policy: SimulationPolicy, count: number): CellsSchedule {
  const { hosts } = trace;
  const cells = Array.from({ length: count }, (_, i) => {
    const share = Math.floor(hosts.count / count) + (i < hosts.count % count ? 1 : 0);
    return new RoutedCell({ name: `${trace.name}, cell ${i + 1}`, hosts: { ...hosts, count: share }, leases: [] }, policy);
  });
  let passedOn = 0;
  let summarizedAt = Number.NEGATIVE_INFINITY;
  for (const lease of trace.leases.toSorted((a, b) => a.submittedAtS - b.submittedAtS)) {
    const now = lease.submittedAtS;
    for (const cell of cells) cell.advance(now);
    if (now - summarizedAt >= refreshS) {
      for (const cell of cells) cell.summarize(now);
      summarizedAt = now;
    }
    const order = cells.toSorted((a, b) => a.load - b.load);
    const taker = order.findIndex((cell) => cell.submit(lease, now));
    if (taker > 0) passedOn += 1;
    for (const [i, { simulation, trace: own }] of order.entries()) {
      // A refusal counts once: in the cell that was asked first, where none takes it.
      if (taker === -1 && i === 0) own.leases.push(lease);
      else if (i !== taker) simulation.schedule.answers.delete(lease.id);
    }
  }
  for (const cell of cells) cell.advance(Number.POSITIVE_INFINITY);
  return {
    cells: cells.map(({ trace: own, simulation, cpuS }) => ({ trace: own, schedule: simulation.schedule, cpuS })),
    passedOn,
  };
}
