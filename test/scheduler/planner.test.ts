import { describe, expect, it } from 'vitest';
import type { Lease } from '../../scheduler/leases/lease.ts';
import { describePlan } from '../../scheduler/leases/plan-view.ts';
import type { SimulatedAction } from '../../scheduler/simulation/actions.ts';
import { configurations, type SimulationPolicy } from '../../scheduler/simulation/configurations.ts';
import { SimulatedPlanner } from '../../scheduler/simulation/simulated-planner.ts';

const hosts = (count: number) => Array.from({ length: count }, (_, i) => ({ id: `h${i}`, vcpus: 2, memoryMiB: 1024 }));
const vm = { submittedAtS: 0, vcpus: 1, memoryMiB: 512, image: 'debian', imageMiB: 600 };
const batch = (id: string, durationS: number, nodes = 1): Lease => ({ ...vm, id, kind: 'bestEffort', durationS, nodes });
const reservation = (id: string, startAtS: number, durationS: number, nodes: number): Lease => ({
  ...vm,
  id,
  kind: 'reservation',
  startAtS,
  durationS,
  nodes,
});
const oneVm = { cpuMilli: 1000, memoryMiB: 512, diskMiB: 0 };
const plain: SimulationPolicy = { ...configurations.novm! };
const suspending: SimulationPolicy = { ...configurations['predeploy-susp']! };
const actionNames = (actions: SimulatedAction[]) =>
  actions.map((action) => ('lease' in action ? `${action.kind} ${action.lease}` : action.kind));

describe('admission', () => {
  it('refuses a reservation whose hosts are promised, with the reason, and accepts each alternative as offered', () => {
    const planner = SimulatedPlanner.create(hosts(2), plain);
    expect(planner.submit(reservation('a', 1000, 600, 3), 0)).toEqual({
      accepted: true,
      promise: { startAtS: 1000, endAtS: 1600 },
    });
    const answer = planner.submit(reservation('b', 900, 600, 2), 0);
    expect(answer).toMatchObject({ accepted: false, reason: 'no-capacity' });
    if (answer.accepted) throw new Error('accepted');
    expect(answer.alternatives).toEqual([
      { change: 'later', startAtS: 1600, nodes: 2, durationS: 600 },
      { change: 'fewer', startAtS: 900, nodes: 1, durationS: 600 },
      { change: 'shorter', startAtS: 900, nodes: 2, durationS: 100 },
    ]);
    for (const { startAtS, nodes, durationS } of answer.alternatives) {
      const other = SimulatedPlanner.restore(planner.snapshot());
      expect(other.submit(reservation('c', startAtS, durationS, nodes), 0).accepted).toBe(true);
    }
  });

  it('exchanges the hosts of reservations when that makes another one possible', () => {
    const planner = SimulatedPlanner.create(hosts(2), plain);
    // One VM of the whole memory of a host needs both halves of one host free: the two small ones must share.
    planner.submit({ ...reservation('a', 100, 100, 1) }, 0);
    planner.submit({ ...reservation('b', 150, 100, 1) }, 0);
    expect(planner.submit({ ...reservation('c', 120, 100, 1), memoryMiB: 1024 }, 0).accepted).toBe(true);
  });

  it('reports what is too large for the site, too soon, or has an image that can not arrive in time', () => {
    const planner = SimulatedPlanner.create(hosts(2), configurations['transfer-susp']!);
    expect(planner.submit(reservation('a', 1000, 10, 5), 0)).toMatchObject({ accepted: false, reason: 'too-large' });
    expect(planner.submit(reservation('b', 10, 10, 1), 20)).toMatchObject({ accepted: false, reason: 'too-soon' });
    const late = planner.submit(reservation('c', 40, 10, 1), 0);
    expect(late).toMatchObject({ accepted: false, reason: 'image-too-late' });
    expect(late.accepted === false && late.alternatives[0]).toMatchObject({ change: 'later', startAtS: 48 });
    expect(planner.submit(reservation('d', 48, 10, 1), 0).accepted).toBe(true);
  });

  it('promises an immediate lease its earliest possible start', () => {
    const planner = SimulatedPlanner.create(hosts(1), suspending);
    planner.submit(batch('a', 1000, 2), 0);
    planner.decide(0);
    const answer = planner.submit({ ...vm, id: 'now', kind: 'immediate', durationS: 60, nodes: 1 }, 100);
    expect(answer).toEqual({ accepted: true, promise: { startAtS: 132, endAtS: 192 } });
  });

  it('gives work with a deadline a start that meets it, or refuses it', () => {
    const planner = SimulatedPlanner.create(hosts(1), plain);
    planner.submit(reservation('a', 0, 500, 2), 0);
    expect(planner.submit({ ...batch('b', 100), deadlineAtS: 599 }, 0)).toMatchObject({ accepted: false, reason: 'deadline' });
    expect(planner.submit({ ...batch('c', 100), deadlineAtS: 600 }, 0)).toMatchObject({
      promise: { startAtS: 500, endAtS: 600 },
    });
  });
});

describe('best-effort work', () => {
  it('is suspended in time for a reservation, one VM at a time, and resumes afterwards with nothing lost', () => {
    const planner = SimulatedPlanner.create(hosts(1), suspending);
    planner.submit(batch('a', 1000), 0);
    planner.submit(batch('b', 1000), 0);
    expect(actionNames(planner.decide(0))).toEqual(['start a', 'start b']);
    planner.submit(reservation('r', 500, 100, 2), 100);
    expect(planner.decide(100)).toEqual([]);
    expect(planner.wakeAt(100)).toBe(468);
    const first = planner.decide(468);
    expect(actionNames(first)).toHaveLength(1);
    expect(first[0]).toMatchObject({ kind: 'suspend', fromS: 468, untilS: 484 });
    expect(planner.wakeAt(468)).toBe(484);
    const [written, other] = first[0]!.kind === 'suspend' && first[0]!.lease === 'a' ? ['a', 'b'] : ['b', 'a'];
    planner.observe({ kind: 'suspended', lease: written! }, 484);
    expect(planner.decide(484)).toMatchObject([{ kind: 'suspend', lease: other, fromS: 484, untilS: 500 }]);
    planner.observe({ kind: 'suspended', lease: other! }, 500);
    expect(actionNames(planner.decide(500))).toEqual(['start r']);
    planner.observe({ kind: 'ended', lease: 'r' }, 600);
    const [resumed] = planner.decide(600);
    // 1100 s of work with the overhead, less the 468 or 484 s that are done.
    const done = resumed?.kind === 'resume' && resumed.lease === written ? 468 : 484;
    expect(resumed).toMatchObject({ kind: 'resume', fromS: 600, workFromS: 616, untilS: 616 + 1100 - done });
  });

  it('does not delay the booking of the first that waits, however much could be backfilled', () => {
    const planner = SimulatedPlanner.create(hosts(1), plain);
    planner.submit(batch('long', 100), 0);
    planner.decide(0);
    planner.submit(batch('wide', 600, 2), 1);
    expect(planner.decide(1)).toEqual([]);
    for (let i = 0; i < 20; i++) planner.submit(batch(`short${i}`, 99), 1);
    expect(actionNames(planner.decide(1))).toEqual(['start short0']); // until 100: just before the wide one begins
    planner.observe({ kind: 'ended', lease: 'short0' }, 50);
    expect(planner.decide(50)).toEqual([]); // none of 99 s fits before 100 any more
    planner.observe({ kind: 'ended', lease: 'long' }, 100);
    expect(actionNames(planner.decide(100))).toEqual(['start wide']);
  });

  it('of higher priority goes first', () => {
    const planner = SimulatedPlanner.create(hosts(1), plain);
    planner.submit(batch('a', 100, 2), 0);
    planner.submit({ ...batch('b', 100, 2), priority: 1 }, 0);
    expect(actionNames(planner.decide(0))).toEqual(['start b']);
  });
});

describe('when execution differs from the plan', () => {
  it('an early end is used at once', () => {
    const planner = SimulatedPlanner.create(hosts(1), plain);
    planner.submit(batch('a', 1000, 2), 0);
    planner.submit(batch('b', 1000, 2), 0);
    planner.decide(0);
    planner.observe({ kind: 'ended', lease: 'a' }, 300);
    expect(actionNames(planner.decide(300))).toEqual(['start b']);
  });

  it('a lease whose time has ended is stopped', () => {
    const planner = SimulatedPlanner.create(hosts(1), plain);
    planner.submit(batch('a', 1000), 0);
    planner.decide(0);
    expect(planner.wakeAt(0)).toBe(1000);
    expect(planner.decide(1000)).toEqual([{ kind: 'stop', lease: 'a', atS: 1000, reason: 'lease-over' }]);
  });

  it('a slow suspend keeps its host reserved, and the next plan allows for it', () => {
    const planner = SimulatedPlanner.create(hosts(1), suspending);
    planner.submit(batch('a', 5000), 0);
    planner.decide(0);
    planner.submit(reservation('r', 500, 100, 2), 0);
    expect(actionNames(planner.decide(484))).toEqual(['suspend a']);
    expect(planner.decide(500)).toEqual([]); // not written yet: the reservation waits for it
    planner.observe({ kind: 'suspended', lease: 'a' }, 508);
    expect(planner.decide(508)).toMatchObject([{ kind: 'start', lease: 'r', workFromS: 508, untilS: 608 }]);
    expect(planner.state.hosts[0]!.slowness).toBe(1.5);
  });

  it('a lost host moves the promises that have not begun, and reports which are broken', () => {
    const planner = SimulatedPlanner.create(hosts(2), plain);
    planner.submit(reservation('running', 0, 1000, 1), 0);
    planner.submit(reservation('movable', 500, 100, 1), 0);
    planner.submit(batch('work', 100), 0);
    const started = planner.decide(0);
    const host = started.flatMap((action) => (action.kind === 'start' && action.lease === 'running' ? action.hosts : []))[0]!;
    planner.observe({ kind: 'hostLost', host }, 10);
    const actions = planner.decide(10);
    expect(actionNames(actions)).toContain('breakPromise running');
    expect(describePlan(planner.state, 10).quotes.find((quote) => quote.lease === 'movable')).toMatchObject({
      startAtS: 500,
      firm: true,
    });
    expect(actions.flatMap((action) => (action.kind === 'start' ? action.hosts : []))).not.toContain(host);
  });

  it('a drain empties a host in time without moving a promise, or is refused with what blocks it', () => {
    const planner = SimulatedPlanner.create(hosts(2), suspending);
    planner.submit(batch('a', 5000), 0);
    planner.submit(batch('b', 5000), 0);
    planner.submit(batch('c', 5000), 0);
    planner.decide(0);
    planner.submit(reservation('r', 400, 100, 2), 0);
    expect(planner.drain('h0', 300, 900, 0)).toEqual({ accepted: true });
    expect(planner.drain('h1', 300, 900, 0)).toMatchObject({ accepted: false, inTheWay: ['r'] });
    expect(planner.wakeAt(0)).toBeLessThanOrEqual(268);
    const suspended: string[] = [];
    for (let at = 0; at < 400; at = planner.wakeAt(at)) {
      for (const action of planner.decide(at)) if (action.kind === 'suspend') suspended.push(action.lease);
      for (const lease of suspended) planner.observe({ kind: 'suspended', lease }, at);
    }
    expect(suspended.length).toBeGreaterThanOrEqual(2);
    expect(describePlan(planner.state, 399).quotes.find((quote) => quote.lease === 'r')?.hosts).toEqual(['h1', 'h1']);
  });

  it('a cancelled lease releases everything', () => {
    const planner = SimulatedPlanner.create(hosts(1), plain);
    planner.submit(batch('a', 1000, 2), 0);
    planner.decide(0);
    planner.submit(reservation('r', 10, 1000, 2), 0);
    planner.cancel('r', 1);
    planner.cancel('a', 1);
    expect(planner.decide(1)).toEqual([{ kind: 'stop', lease: 'a', atS: 1, reason: 'cancelled' }]);
    expect([...planner.state.timeline.booked[0]!.steps(Number.NEGATIVE_INFINITY, oneVm, 9)]).toHaveLength(1);
  });
});

describe('images', () => {
  it('arrive just in time for reservations, and earlier for the queue while the link is free', () => {
    const planner = SimulatedPlanner.create(hosts(2), configurations['transfer-susp']!);
    planner.submit(reservation('r', 1000, 100, 4), 0);
    expect(planner.decide(0)).toEqual([]);
    expect(planner.wakeAt(0)).toBe(952);
    planner.submit(batch('a', 100), 10);
    expect(planner.decide(10)).toMatchObject([{ kind: 'transfer', leases: ['a'], fromS: 10, untilS: 58 }]);
    planner.observe({ kind: 'transferred' }, 58);
    expect(actionNames(planner.decide(58))).toEqual(['start a']);
    planner.observe({ kind: 'ended', lease: 'a' }, 168);
    expect(planner.decide(952)).toMatchObject([{ kind: 'transfer', leases: ['r'], hosts: ['h0', 'h1'] }]);
  });

  it('are sent once for all leases that need them where transfers are shared, and never again to a host that has them', () => {
    const planner = SimulatedPlanner.create(hosts(2), configurations['reuse-susp']!);
    for (const id of ['a', 'b', 'c', 'd']) planner.submit(batch(id, 100), 0);
    expect(planner.decide(0)).toMatchObject([{ kind: 'transfer', leases: ['a', 'b', 'c', 'd'] }]);
    planner.observe({ kind: 'transferred' }, 48);
    expect(actionNames(planner.decide(48))).toEqual(['start a', 'start b', 'start c', 'start d']);
    planner.submit(batch('e', 100), 60);
    expect(planner.decide(60)).toEqual([]);
  });
});

describe('the plan', () => {
  it('quotes a start and an end for every lease, and changes nothing', () => {
    const planner = SimulatedPlanner.create(hosts(1), plain);
    planner.submit(reservation('r', 500, 100, 2), 0);
    planner.submit(batch('a', 300, 2), 0);
    planner.submit(batch('b', 200, 2), 0);
    planner.submit(batch('c', 200, 2), 0);
    planner.decide(0);
    const before = planner.snapshot();
    const { quotes } = describePlan(planner.state, 0);
    expect(quotes.map(({ lease, startAtS, endAtS, firm }) => [lease, startAtS, endAtS, firm])).toEqual([
      ['r', 500, 600, true],
      ['a', 0, 300, false],
      ['b', 300, 500, false],
      ['c', 600, 800, false],
    ]);
    expect(planner.snapshot()).toEqual(before);
  });
});
