import fc from 'fast-check';
import { expect, test } from 'vitest';
import { changedPromises, decideSite, planSite, type SiteDecision } from '../../scheduler/leases/site/site-plan.ts';
import {
  plannedLease,
  type SiteFigures,
  type SiteLease,
  type SiteOperation,
  type SiteState,
} from '../../scheduler/leases/site/site-state.ts';

const runs = Number(process.env.BERTH_PROPERTY_RUNS ?? 150);
const figures: SiteFigures = { teardownS: 5, suspendMiBPerS: 64 };
const hostSize = { vcpus: 2, memoryMiB: 1024, diskMiB: 100_000 };

interface LeaseScript {
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

const leaseScript: fc.Arbitrary<LeaseScript> = fc.record({
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

/** Decides as a site does that reads leases where work may have to make way, and else what is taken by VMs that run. */
function decideWithFewLeases(site: SiteState, now: number): SiteDecision {
  const promised = site.leases.filter(({ phase, startAtS }) => phase === 'waiting' && startAtS !== null);
  const listed = new Set(promised.flatMap(({ hosts }) => hosts));
  for (;;) {
    const isRead = (lease: SiteLease) =>
      lease.phase !== 'running' || lease.startAtS !== null || lease.hosts.length > 1 || listed.has(lease.hosts[0]!);
    const running = site.leases
      .filter((lease) => !isRead(lease))
      .map(({ hosts, perVm, runFromS, leftS, durationS, preemptible }) => {
        return { host: hosts[0]!, each: perVm, runFromS: runFromS!, leftS: leftS ?? durationS, preemptible };
      });
    const decision = decideSite({ ...site, leases: site.leases.filter(isRead), running }, figures, now);
    if (decision.hostsToList.length === 0) return decision;
    for (const host of decision.hostsToList) listed.add(host);
  }
}

const phasesWithoutVcpus: ReadonlySet<SiteLease['phase']> = new Set(['waiting', 'suspended', 'migrating']);

/** A site whose ledger is a list, and in which every operation takes time. */
class SimulatedSite {
  now = 0;
  readonly rows: Row[] = [];
  readonly hosts = ['h1', 'h2', 'h3'].map((id) => ({
    id,
    capacity: hostSize,
    up: true,
    answers: true,
    slowness: 1,
    vacant: null,
  }));

  site(): SiteState {
    return { hosts: this.hosts, leases: this.rows.filter((row) => !row.ended), taken: this.#disksOfSuspended() };
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
      startAtS: order.reserveInS === null ? null : this.now + order.reserveInS,
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
    expect(decideWithFewLeases(this.site(), this.now)).toEqual(decision);
    expect(decision.broken).toEqual([]);
    for (const { lease, hosts, workFromS } of decision.starts) {
      const row = this.#row(lease);
      expect(hosts).toHaveLength(row.nodes);
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
      row.workLeftS -= Math.max(0, this.now - row.runFromS!);
      Object.assign(row, { phase: 'suspending', leftS, endsAtS: null, suspensions: row.suspensions + 1 });
      this.#operate(row, operation);
    }
    for (const { lease, operation } of decision.resumes) {
      const row = this.#row(lease);
      row.phase = 'resuming';
      this.#operate(row, operation);
    }
    for (const { lease, to, operation } of decision.moves) {
      const row = this.#row(lease);
      expect([row.phase, row.operation, row.hosts.length]).toEqual(['suspended', null, 1]);
      Object.assign(row, { phase: 'migrating', movedFrom: row.hosts, hosts: [to], moved: row.moved + 1 });
      this.#operate(row, operation);
    }
    for (const { lease, hosts, bound } of decision.promises) Object.assign(this.#row(lease), { hosts, bound });
    return decision.wakeAtS;
  }

  #operate(row: Row, operation: SiteOperation): void {
    row.operation = operation;
    row.operationEndsS = this.now + (operation.untilS - operation.fromS) * row.order.operationShare;
  }

  check(): void {
    for (const { id, capacity } of this.hosts) {
      const here = this.rows.filter((row) => !row.ended && !phasesWithoutVcpus.has(row.phase));
      const vcpus = here.reduce((sum, row) => sum + row.perVm.vcpus * row.hosts.filter((host) => host === id).length, 0);
      expect(vcpus, `vCPUs on ${id} at ${this.now}`).toBeLessThanOrEqual(capacity.vcpus);
    }
    for (const row of this.rows)
      if (row.startAtS !== null && row.startedAtS !== null) expect(row.startedAtS, row.id).toBeCloseTo(row.startAtS, 3);
  }

  nextAfter(wakeAtS: number | null): number {
    const moments = this.rows.flatMap((row) => [row.endsAtS, row.operationEndsS]);
    return Math.min(...[...moments, wakeAtS].filter((at) => at !== null && at > this.now).map(Number));
  }
}

/** Submits every request, each with its delay after the one before, and runs until nothing is due any more. */
function runSite(orders: readonly LeaseScript[]): SimulatedSite {
  const world = new SimulatedSite();
  const arrivals = orders.map((one) => ({ ...one }));
  let arriveAt = arrivals[0]!.afterS;
  for (let steps = 0; steps < 5000; steps += 1) {
    world.applyDue();
    while (arrivals.length > 0 && arriveAt <= world.now) {
      world.submit(arrivals.shift()!);
      arriveAt += arrivals[0]?.afterS ?? 0;
    }
    const wakeAtS = world.decide();
    world.check();
    const next = Math.min(world.nextAfter(wakeAtS), arrivals.length > 0 ? arriveAt : Number.POSITIVE_INFINITY);
    if (next === Number.POSITIVE_INFINITY) break;
    world.now = next;
  }
  // Nothing waits or sleeps for ever, and no lease got less than its work.
  expect(world.rows.filter((row) => !row.ended).map(({ id, phase }) => `${id} ${phase}`)).toEqual([]);
  return world;
}

test('plans that are rebuilt from rows keep every promise to the second, exceed no capacity and finish all work', () => {
  let suspensions = 0;
  let promised = 0;
  const property = fc.property(fc.array(leaseScript, { minLength: 1, maxLength: 14 }), (orders) => {
    const { rows } = runSite(orders);
    suspensions += rows.reduce((sum, row) => sum + row.suspensions, 0);
    promised += rows.filter((row) => row.startAtS !== null).length;
  });
  fc.assert(property, { numRuns: runs });
  // If not, the workloads would have tested nothing; random ones have far more.
  expect([suspensions > runs / 50, promised > runs / 4]).toEqual([true, true]);
}, 120_000);

test.each([true, false])('suspended work moves to a host that is free sooner, once: it arrives (%s)', (arrives) => {
  const whole = { afterS: 0, reserveInS: null, durationS: 400, nodes: 1, vcpus: 2, warm: true, operationShare: 1 } as const;
  // Two of them end long before their limit: the one that remains leaves capacity for the one that is suspended.
  const brief: LeaseScript = { ...whole, preemptible: true, migrationSucceeds: arrives, workShare: 0.3 };
  const { rows } = runSite([
    brief,
    brief,
    { ...brief, preemptible: false, workShare: 1 },
    { ...brief, afterS: 30, reserveInS: 60, workShare: 1 },
  ]);
  const suspended = rows.filter(({ suspensions }) => suspensions > 0);
  const stayed = rows.find(({ suspensions, preemptible, startAtS }) => suspensions === 0 && preemptible && startAtS === null)!;
  const to = arrives ? stayed.hosts : rows[3]!.hosts;
  expect(suspended).toMatchObject([{ suspensions: 1, moved: 1, hosts: to }]);
});

test('a promise leaves a host that has to be vacant; where there is no other, its hosts remain recorded', () => {
  const world = new SimulatedSite();
  const order = { afterS: 0, reserveInS: 600, durationS: 100, nodes: 2, vcpus: 2, warm: true } as const;
  world.submit({ ...order, preemptible: true, migrationSucceeds: true, operationShare: 1, workShare: 1 });
  const hostsOf = () => {
    world.decide();
    return world.rows[0]!.hosts.toSorted();
  };
  const [first] = hostsOf();
  const vacate = (host: string) =>
    Object.assign(world.hosts.find(({ id }) => id === host)!, { vacant: { fromS: 500, untilS: 700 } });
  vacate(first!);
  const others = ['h1', 'h2', 'h3'].filter((host) => host !== first);
  expect(hostsOf()).toEqual(others);
  vacate(others[0]!);
  expect(hostsOf()).toEqual(others);
});

test('a promise that needs the capacity of work which is no lease of the plan asks for that work', () => {
  const host = (id: string) => ({ id, capacity: hostSize, up: true, answers: true, slowness: 1, vacant: null });
  const running = ['h1', 'h2'].map((id) => {
    return { host: id, each: { ...hostSize, diskMiB: 10 }, runFromS: 0, leftS: 10_000, preemptible: true };
  });
  const promise: SiteLease = {
    id: 'promise',
    kind: 'reservation',
    submittedAtS: 0,
    durationS: 100,
    nodes: 1,
    perVm: { ...hostSize, diskMiB: 10 },
    priority: 0,
    preemptible: true,
    startAtS: 60,
    phase: 'waiting',
    hosts: ['h2'],
    bound: false,
    runFromS: null,
    leftS: null,
    leadS: 4,
    operation: null,
  };
  const site: SiteState = { hosts: [host('h1'), host('h2')], leases: [promise], running, taken: [] };
  // Its hosts become final: from then on work has to make way.
  expect(decideSite(site, figures, 38).hostsToList).toEqual(['h1']);
  // Not yet, and not beside it.
  expect(decideSite(site, figures, 1).hostsToList).toEqual([]);
  expect(decideSite({ ...site, running: running.slice(0, 1) }, figures, 38).hostsToList).toEqual([]);
});
