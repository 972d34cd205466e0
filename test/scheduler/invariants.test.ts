import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { audit } from '../../scheduler/simulation/audit/audit.ts';
import { SimulatedPlanner } from '../../scheduler/simulation/simulated-planner.ts';
import { simulate } from '../../scheduler/simulation/simulator.ts';
import { hostsOf } from '../../scheduler/simulation/trace.ts';
import { growingSite, workload } from './workloads.ts';

/** The number of random workloads; BERTH_PROPERTY_RUNS requests more. Every failure prints the seed. */
const numRuns = Number(process.env.BERTH_PROPERTY_RUNS ?? 2000);

describe('every schedule of a random workload', () => {
  it('keeps all guarantees: capacity, gangs, promises, images, one operation at a time, no lost work, no starvation', () => {
    fc.assert(
      fc.property(workload, ({ trace, policy }) => {
        expect(audit(trace, simulate(trace, policy))).toEqual([]);
      }),
      { numRuns },
    );
  }, 120_000);

  it('keeps them on sites of many hosts, where gangs are preempted for several reservations at once', () => {
    fc.assert(
      fc.property(growingSite, ({ trace, policy }) => {
        expect(audit(trace, simulate(trace, policy))).toEqual([]);
      }),
      // Each of the many attempts to shrink a large site takes seconds.
      { numRuns: Math.ceil(numRuns / 1000), endOnFailure: true },
    );
  }, 120_000);

  it('is the same every time, also when the planner is restarted from its snapshot before every decision', () => {
    fc.assert(
      fc.property(workload, ({ trace, policy }) => {
        const schedule = simulate(trace, policy);
        expect(simulate(trace, policy, { restarts: true })).toEqual(schedule);
      }),
      { numRuns: numRuns / 20 },
    );
  }, 120_000);

  it('keeps every promise while hosts are drained, and leaves no VM on a drained host', () => {
    const drains = fc.array(
      fc.record({
        host: fc.integer({ min: 0, max: 4 }),
        atS: fc.nat(2000),
        inS: fc.integer({ min: 100, max: 500 }),
        forS: fc.integer({ min: 1, max: 2000 }),
      }),
      { minLength: 1, maxLength: 3 },
    );
    fc.assert(
      fc.property(workload, drains, ({ trace, policy }, wanted) => {
        const outages = wanted
          .filter((drain, i) => drain.host < trace.hosts.count && wanted.findIndex((other) => other.host === drain.host) === i)
          .map(({ host, atS, inS, forS }) => ({ drain: `h${host}`, atS, fromS: atS + inS, untilS: atS + inS + forS }));
        const schedule = simulate(trace, policy, { disruptions: outages });
        expect(audit(trace, schedule)).toEqual([]);
      }),
      { numRuns: numRuns / 2 },
    );
  }, 120_000);

  it('loses only what a lost host held: no other promise is broken, and all work ends', () => {
    const losses = fc.array(
      fc.record({ host: fc.integer({ min: 1, max: 4 }), atS: fc.nat(3000), forS: fc.integer({ min: 1, max: 2000 }) }),
      {
        minLength: 1,
        maxLength: 2,
      },
    );
    fc.assert(
      fc.property(workload, losses, ({ trace, policy }, wanted) => {
        const outages = wanted
          .filter((loss, i) => loss.host < trace.hosts.count && wanted.findIndex((other) => other.host === loss.host) === i)
          .map(({ host, atS, forS }) => ({ lose: `h${host}`, atS, untilS: atS + forS }));
        const schedule = simulate(trace, policy, { disruptions: outages });
        // A late reservation may also have less time, when its hosts are promised to others afterwards.
        const broken = new Set(
          schedule.actions.flatMap((action) =>
            action.kind === 'breakPromise' || (action.kind === 'stop' && action.reason === 'lease-over') ? [action.lease] : [],
          ),
        );
        for (const lease of trace.leases) {
          const accepted = schedule.answers.get(lease.id)?.accepted === true;
          if (!broken.has(lease.id)) expect(schedule.endedAtS.has(lease.id), `${lease.id} ended`).toBe(accepted);
        }
        const capacity = audit(trace, schedule).filter((sentence) => sentence.includes('holds more than it has'));
        expect(capacity).toEqual([]);
      }),
      { numRuns: numRuns / 2 },
    );
  }, 120_000);
});

describe('no best-effort lease starves', () => {
  it('a wide one starts under an endless flood of short ones that came later', () => {
    const planner = SimulatedPlanner.create(hostsOf({ name: '', hosts: { count: 2, vcpus: 2, memoryMiB: 1024 }, leases: [] }), {
      backfilling: 'aggressive',
      suspension: false,
      suspendMiBPerS: 32,
      migration: 'none',
      networkMiBPerS: 12.5,
      images: null,
      runtimeOverhead: 0,
      bootS: 0,
      marginS: 0,
    });
    const vm = { kind: 'bestEffort' as const, vcpus: 1, memoryMiB: 512, image: '', imageMiB: 0 };
    const ends = new Map<string, number>();
    let wideStartedAt: number | null = null;
    for (let at = 0; at < 5000 && wideStartedAt === null; at += 10) {
      for (const [lease, end] of ends) if (end === at && ends.delete(lease)) planner.observe({ kind: 'ended', lease }, at);
      if (at === 100) planner.submit({ ...vm, id: 'wide', submittedAtS: at, durationS: 60, nodes: 4 }, at);
      for (let i = 0; i < 2; i++) planner.submit({ ...vm, id: `${at}.${i}`, submittedAtS: at, durationS: 50, nodes: 1 }, at);
      for (const action of planner.decide(at)) {
        if (action.kind !== 'start') continue;
        ends.set(action.lease, action.untilS);
        if (action.lease === 'wide') wideStartedAt = at;
      }
    }
    expect(wideStartedAt).not.toBeNull();
    expect(wideStartedAt! - 100).toBeLessThanOrEqual(600);
  });
});
