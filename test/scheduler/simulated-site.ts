import fc from 'fast-check';
import { expect } from 'vitest';
import type { Resources } from '../../model/host.ts';
import { changedPromises, decideSite, planSite, type SiteDecision } from '../../scheduler/leases/site/site-plan.ts';
import {
  plannedLease,
  type SiteFigures,
  type SiteLease,
  type SiteOperation,
  type SiteState,
} from '../../scheduler/leases/site/site-state.ts';

export const figures: SiteFigures = { teardownS: 5, suspendMiBPerS: 64 };
export const hostSize = { vcpus: 2, memoryMiB: 1024, diskMiB: 100_000 };

export interface LeaseScript {
  afterS: number;
  reserveInS: number | null;
  durationS: number;
  nodes: number;
  vcpus: 1 | 2;
  warm: boolean;
  preemptible: boolean;
  /** The real time of an operation, as a share of the planned one; and of the work, as a share of its duration. */
  operationShare: number;
  workShare: number;
  /** Whether it arrives at the host to which it is moved while it is suspended. */
  migrationSucceeds: boolean;
}

export const leaseScript: fc.Arbitrary<LeaseScript> = fc.record({
  afterS: fc.integer({ min: 0, max: 120 }),
  reserveInS: fc.option(fc.integer({ min: 20, max: 600 }), { freq: 2 }),
  durationS: fc.integer({ min: 10, max: 400 }),
  nodes: fc.integer({ min: 1, max: 3 }),
  vcpus: fc.constantFrom(1, 2),
  warm: fc.boolean(),
  preemptible: fc.boolean(),
  migrationSucceeds: fc.boolean(),
  operationShare: fc.double({ min: 0.2, max: 1, noNaN: true }),
  workShare: fc.double({ min: 0.1, max: 1, noNaN: true }),
});

/** A lease as in the ledger's row, and its state in the simulated site. */
interface Row extends SiteLease {
  order: LeaseScript;
  workLeftS: number;
  endsAtS: number | null;
  operationEndsS: number | null;
  startedAtS: number | null;
  suspensions: number;
  /** Its host before it began to move. */
  movedFrom: string[] | null;
  moved: number;
  ended: boolean;
}

const phasesWithoutVcpus: ReadonlySet<SiteLease['phase']> = new Set(['waiting', 'suspended', 'migrating']);

/** A site whose ledger is a list, and in which every operation takes time. */
export class SimulatedSite {
  now = 0;
  readonly rows: Row[] = [];
  readonly allocations = new Map<string, number>();
  /** VMs that are no leases, each until a moment. */
  visitors: { host: string; each: Resources; untilS: number }[] = [];
  readonly hosts = ['h1', 'h2', 'h3'].map((id) => ({
    id,
    capacity: hostSize,
    up: true,
    answers: true,
    slowness: 1,
    vacant: null,
  }));

  site(): SiteState {
    return {
      hosts: this.hosts,
      leases: this.rows.filter((row) => !row.ended),
      taken: [...this.visitors, ...this.#disksOfSuspended()],
    };
  }

  #disksOfSuspended(): SiteState['taken'] {
    const asleep = this.rows.filter((row) => (!row.ended && row.phase === 'suspended') || row.phase === 'migrating');
    return asleep.flatMap((row) =>
      row.hosts.map((host) => ({ host, each: { vcpus: 0, memoryMiB: 0, diskMiB: row.perVm.diskMiB } })),
    );
  }

  submit(order: LeaseScript): void {
    const lease: SiteLease = {
      id: `l${this.rows.length}`,
      kind: order.reserveInS === null ? 'bestEffort' : 'reservation',
      submittedAtS: this.now,
      durationS: order.durationS,
      nodes: order.nodes,
      perVm: { vcpus: order.vcpus, memoryMiB: 128 * order.vcpus, diskMiB: 64 },
      priority: 0,
      preemptible: order.preemptible,
      // In whole seconds: starts that differ by a rounding error are decided at one after the other.
      startAtS: order.reserveInS === null ? null : Math.ceil(this.now) + order.reserveInS,
      phase: 'waiting',
      hosts: [],
      bound: false,
      runFromS: null,
      leftS: null,
      operation: null,
      leadS: order.warm ? 4 : 12,
    };
    const { planner } = planSite(this.site(), figures, this.now);
    if (!planner.submit(plannedLease(lease, figures), this.now).accepted) return;
    for (const promise of changedPromises(this.site(), planner.state)) {
      const row = promise.lease === lease.id ? lease : this.#row(promise.lease);
      Object.assign(row, { hosts: promise.hosts, bound: promise.bound });
    }
    const rest = { workLeftS: order.durationS * order.workShare, endsAtS: null, operationEndsS: null, startedAtS: null };
    this.rows.push({ ...lease, order, ...rest, suspensions: 0, movedFrom: null, moved: 0, ended: false });
  }

  #row(id: string): Row {
    return this.rows.find((row) => row.id === id)!;
  }

  /** The events until now, as the leases' workflows report them. */
  applyDue(): void {
    this.visitors = this.visitors.filter(({ untilS }) => untilS > this.now);
    for (const row of this.rows) {
      if (row.operationEndsS !== null && row.operationEndsS <= this.now) this.#operated(row);
      if (row.endsAtS !== null && row.endsAtS <= this.now) Object.assign(row, { ended: true, endsAtS: null });
    }
  }

  #operated(row: Row): void {
    if (row.phase === 'migrating') {
      const hosts = row.order.migrationSucceeds ? row.hosts : row.movedFrom!;
      Object.assign(row, { phase: 'suspended', hosts, operationEndsS: null });
      return;
    }
    const resumed = row.phase === 'resuming';
    Object.assign(row, { phase: resumed ? 'running' : 'suspended', operation: null, operationEndsS: null });
    row.runFromS = resumed ? this.now : null;
    if (resumed) row.endsAtS = this.now + row.workLeftS;
  }

  decide(): number | null {
    const decision = decideSite(this.site(), figures, this.now);
    this.apply(decision);
    return decision.wakeAtS;
  }

  apply(decision: SiteDecision): void {
    expect(decision.broken).toEqual([]);
    for (const { lease, hosts, workFromS } of decision.starts) {
      const row = this.#row(lease);
      expect([lease, row.phase, row.ended]).toEqual([lease, 'waiting', false]);
      expect(hosts).toHaveLength(row.nodes);
      this.allocate(hosts);
      Object.assign(row, {
        phase: 'running',
        hosts,
        runFromS: workFromS,
        startedAtS: workFromS,
        endsAtS: workFromS + row.workLeftS,
      });
    }
    for (const { lease, leftS, operation } of decision.suspends) {
      const row = this.#row(lease);
      expect([lease, row.phase]).toEqual([lease, 'running']);
      row.workLeftS -= Math.max(0, this.now - row.runFromS!);
      Object.assign(row, { phase: 'suspending', leftS, endsAtS: null, suspensions: row.suspensions + 1 });
      this.#operate(row, operation);
    }
    for (const { lease, operation } of decision.resumes) {
      const row = this.#row(lease);
      expect([lease, row.phase]).toEqual([lease, 'suspended']);
      row.phase = 'resuming';
      this.allocate(row.hosts);
      this.#operate(row, operation);
    }
    for (const { lease, to, operation } of decision.moves) {
      const row = this.#row(lease);
      expect([row.phase, row.operation, row.hosts.length]).toEqual(['suspended', null, 1]);
      Object.assign(row, { phase: 'migrating', movedFrom: row.hosts, hosts: [to], moved: row.moved + 1 });
      this.#operate(row, operation);
    }
    for (const { lease, hosts, bound } of decision.promises) Object.assign(this.#row(lease), { hosts, bound });
  }

  /** Something begins to take capacity of these hosts. */
  allocate(hosts: readonly string[]): void {
    for (const host of new Set(hosts)) this.allocations.set(host, (this.allocations.get(host) ?? 0) + 1);
  }

  #operate(row: Row, operation: SiteOperation): void {
    row.operation = operation;
    row.operationEndsS = this.now + (operation.untilS - operation.fromS) * row.order.operationShare;
  }

  check(): void {
    for (const { id, capacity } of this.hosts) {
      const here = this.rows.filter((row) => !row.ended && !phasesWithoutVcpus.has(row.phase));
      const vcpus =
        here.reduce((sum, row) => sum + row.perVm.vcpus * row.hosts.filter((host) => host === id).length, 0) +
        this.visitors.reduce((sum, { host, each }) => sum + (host === id ? each.vcpus : 0), 0);
      expect(vcpus, `vCPUs on ${id} at ${this.now}`).toBeLessThanOrEqual(capacity.vcpus);
    }
    for (const row of this.rows)
      if (row.startAtS !== null && row.startedAtS !== null) expect(row.startedAtS, row.id).toBeCloseTo(row.startAtS, 3);
  }

  nextAfter(wakeAtS: number | null): number {
    const moments = [
      ...this.rows.flatMap((row) => [row.endsAtS, row.operationEndsS]),
      ...this.visitors.map(({ untilS }) => untilS),
    ];
    return Math.min(...[...moments, wakeAtS].filter((at) => at !== null && at > this.now).map(Number));
  }
}

/** One decision of a site, with its effects; when the next is due. */
export type Decide = (world: SimulatedSite) => number | null;

/** Submits every request, each with its delay after the one before, and runs until nothing is due any more. */
export function runSite(orders: readonly LeaseScript[], decide: Decide): SimulatedSite {
  const world = new SimulatedSite();
  const arrivals = orders.map((one) => ({ ...one }));
  let arriveAt = arrivals[0]!.afterS;
  for (let steps = 0; steps < 5000; steps += 1) {
    world.applyDue();
    while (arrivals.length > 0 && arriveAt <= world.now) {
      world.submit(arrivals.shift()!);
      arriveAt += arrivals[0]?.afterS ?? 0;
    }
    const wakeAtS = decide(world);
    world.check();
    const next = Math.min(world.nextAfter(wakeAtS), arrivals.length > 0 ? arriveAt : Number.POSITIVE_INFINITY);
    if (next === Number.POSITIVE_INFINITY) break;
    world.now = next;
  }
  // Nothing waits or sleeps for ever, and no lease got less than its work.
  expect(world.rows.filter((row) => !row.ended).map(({ id, phase }) => `${id} ${phase}`)).toEqual([]);
  return world;
}
