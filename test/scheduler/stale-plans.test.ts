import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  changedFacts,
  type groupActs,
  groupDecision,
  type PlanFacts,
  withoutStale,
} from '../../scheduler/leases/site/plan-acts.ts';
import { decideSite, type SiteDecision } from '../../scheduler/leases/site/site-plan.ts';
import { isFull } from '../tier.ts';
import { figures, hostSize, type LeaseScript, leaseScript, runSite, type SimulatedSite } from './simulated-site.ts';

/**
 * A planner decides from what it has read, and before its decision is applied the site changes: requests are promised, leases end
 * or are cancelled, other VMs arrive, another planner applies a decision of its own. What is applied of the old decision keeps
 * every promise to the second, starts nothing twice and exceeds no capacity.
 */

/** Decisions that are applied to a site which has changed since. */
const wanted = Number(process.env.BERTH_PROPERTY_RUNS ?? (isFull ? 100_000 : 2_000));

type Change =
  | { kind: 'request'; order: LeaseScript }
  | { kind: 'step' }
  | { kind: 'arrive'; which: number }
  | { kind: 'end' | 'cancel'; which: number };

/** A request whose start is so near that its hosts are those on which something is about to start. */
const soon: fc.Arbitrary<LeaseScript> = fc
  .record({ order: leaseScript, reserveInS: fc.integer({ min: 16, max: 90 }) })
  .map(({ order, reserveInS }) => ({ ...order, reserveInS }));

const change: fc.Arbitrary<Change> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('request' as const), order: soon }) },
  { weight: 1, arbitrary: fc.constant<Change>({ kind: 'step' }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('end', 'cancel', 'arrive' as const), which: fc.nat(50) }) },
);

/** As ledger/leases/plan/plan-facts.ts makes them of the ledger's rows. */
function factsOf(world: SimulatedSite, { hosts, leases }: ReturnType<typeof groupActs>): PlanFacts {
  const rows = world.rows.filter(({ ended }) => !ended);
  const isPromise = ({ phase, startAtS }: (typeof rows)[number]) => phase === 'waiting' && startAtS !== null;
  return {
    hosts: new Map(
      world.hosts
        .filter(({ id }) => hosts.has(id))
        .map((host) => [host.id, JSON.stringify([host, world.allocations.get(host.id)])]),
    ),
    leases: new Map(
      rows
        .filter((row) => leases.has(row.id) || (isPromise(row) && row.hosts.some((host) => hosts.has(host))))
        .map((row) => {
          const { id, phase, hosts, bound, operation, runFromS, leftS } = row;
          const version = JSON.stringify([phase, hosts, bound, operation, runFromS, leftS]);
          return [id, { version, promisedHosts: isPromise(row) ? hosts : [] }];
        }),
    ),
  };
}

const freeVcpus = (world: SimulatedSite, host: string): number => {
  const { leases, taken } = world.site();
  const here = leases.filter(({ phase }) => !['waiting', 'suspended', 'migrating'].includes(phase));
  const used =
    here.reduce((sum, { hosts, perVm }) => sum + perVm.vcpus * hosts.filter((one) => one === host).length, 0) +
    taken.reduce((sum, { host: one, each }) => sum + (one === host ? each.vcpus : 0), 0);
  return hostSize.vcpus - used;
};

/** A VM that no plan knows of, where it fits beside all that runs and all that is promised there. */
function arrive(world: SimulatedSite, which: number): void {
  const host = world.hosts[which % world.hosts.length]!.id;
  const promised = world.rows.some(({ ended, phase, hosts }) => !ended && phase === 'waiting' && hosts.includes(host));
  if (promised || freeVcpus(world, host) < 1) return;
  world.visitors.push({ host, each: { vcpus: 1, memoryMiB: 64, diskMiB: 0 }, untilS: world.now + 30 + which });
  world.allocate([host]);
}

/** Requests of a run, so that it ends. */
const maxLeases = 40;

function apply(world: SimulatedSite, one: Change): void {
  if (one.kind === 'request') {
    if (world.rows.length < maxLeases) world.submit(one.order);
  } else if (one.kind === 'step') world.decide();
  else if (one.kind === 'arrive') arrive(world, one.which);
  else endLease(world, one);
}

/** Work of best effort that runs ends early; or what waits, a promise too, is cancelled. */
function endLease(world: SimulatedSite, one: { kind: 'end' | 'cancel'; which: number }): void {
  const [phase, isFirm] = one.kind === 'end' ? (['running', false] as const) : (['waiting', true] as const);
  const rows = world.rows.filter((row) => !row.ended && row.phase === phase && (isFirm || row.startAtS === null));
  const row = rows[one.which % Math.max(1, rows.length)];
  if (row !== undefined) Object.assign(row, { ended: true, endsAtS: null });
}

/** Without starts and resumes for which there is no capacity now. */
function withinCapacity(world: SimulatedSite, decision: SiteDecision): SiteDecision {
  const free = new Map(world.hosts.map(({ id }) => [id, freeVcpus(world, id)]));
  const fits = ({ lease, hosts }: { lease: string; hosts?: string[] }): boolean => {
    const row = world.rows.find(({ id }) => id === lease)!;
    const each = row.perVm.vcpus;
    const on = hosts ?? row.hosts;
    for (const host of on) free.set(host, free.get(host)! - each);
    if (on.every((host) => free.get(host)! >= 0)) return true;
    for (const host of on) free.set(host, free.get(host)! + each);
    return false;
  };
  return { ...decision, starts: decision.starts.filter(fits), resumes: decision.resumes.filter(fits) };
}

test('a decision that is applied late keeps every promise, and makes nothing twice', () => {
  const counts = { applied: 0, refused: 0, partly: 0, acts: 0 };
  const property = fc.property(
    fc.array(leaseScript, { minLength: 4, maxLength: 14 }),
    fc.array(fc.array(change, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 60 }),
    (orders, script) => {
      let step = 0;
      runSite(orders, (world) => {
        const decision = decideSite(world.site(), figures, world.now);
        const groups = groupDecision(decision, world.site().leases);
        const facts = factsOf(world, groups);
        // A decision that does nothing cannot be wrong.
        const changes = groups.leases.size === 0 ? [] : (script[step++] ?? []);
        for (const one of changes) apply(world, one);
        const left = withoutStale(decision, groups, changedFacts(facts, factsOf(world, groups)));
        if (changes.length === 0) expect(left).toEqual({ decision, refused: [] });
        world.apply(withinCapacity(world, left.decision));
        counts.applied += Number(changes.length > 0 && groups.leases.size > 0);
        counts.acts += groups.leases.size - left.refused.length;
        counts.refused += left.refused.length;
        counts.partly += Number(left.refused.length > 0 && left.refused.length < groups.leases.size);
        return world.decide();
      });
    },
  );
  for (let seed = fc.readConfigureGlobal()?.seed ?? Date.now(); counts.applied < wanted; seed += 1)
    fc.assert(property, { numRuns: 25, seed });
  // If not, nothing would have been tried: acts hold, are refused, and a decision may hold in part.
  expect([counts.acts > wanted / 20, counts.refused > wanted / 100, counts.partly > wanted / 5000]).toEqual([true, true, true]);
}, 3_600_000);

test('acts that name a host in common are refused together', () => {
  const none = { starts: [], suspends: [], resumes: [], moves: [], promises: [], broken: [], wakeAtS: null, hostsToList: [] };
  const lease = (id: string, hosts: string[], startAtS: number | null = null) => {
    return { id, hosts, phase: startAtS === null ? ('running' as const) : ('waiting' as const), startAtS };
  };
  const start = (id: string, host: string) => ({ lease: id, hosts: [host], workFromS: 0, untilS: 1 });
  const decision: SiteDecision = {
    ...none,
    // The promise makes way for `one`, which relies on the promise's new host.
    promises: [{ lease: 'promise', hosts: ['h2'], bound: false }],
    starts: [start('one', 'h1'), start('other', 'h4'), start('beside', 'h5')],
  };
  const leases = [lease('promise', ['h1'], 100), lease('gang', ['h4', 'h6'])];
  const groups = groupDecision(decision, leases);
  const refusedBy = (hosts: string[], changed: string[] = []) =>
    withoutStale(decision, groups, { hosts: new Set(hosts), leases: new Set(changed) }).refused.sort();
  expect(refusedBy([])).toEqual([]);
  expect(refusedBy(['h2'])).toEqual(['one', 'promise']);
  expect(refusedBy([], ['promise'])).toEqual(['one', 'promise']);
  // A gang that may have to make way there is suspended on all of its hosts.
  expect(refusedBy(['h6'])).toEqual(['other']);
  expect(refusedBy(['h3'])).toEqual([]);
  expect([...groups.hosts.keys()].sort()).toEqual(['h1', 'h2', 'h4', 'h5', 'h6']);
});

test('a promise that has come, gone or moved changes its hosts', () => {
  const facts = (leases: [string, string, string[]][]): PlanFacts => ({
    hosts: new Map([['h1', '1']]),
    leases: new Map(leases.map(([id, version, promisedHosts]) => [id, { version, promisedHosts }])),
  });
  const before = facts([['a', '1', ['h1']]]);
  const changed = (after: PlanFacts) => [...changedFacts(before, after).hosts].sort();
  expect(changed(before)).toEqual([]);
  expect(changed(facts([]))).toEqual(['h1']);
  expect(changed(facts([['a', '2', ['h2']]]))).toEqual(['h1', 'h2']);
  expect(
    changed(
      facts([
        ['a', '1', ['h1']],
        ['b', '1', ['h1']],
      ]),
    ),
  ).toEqual(['h1']);
});
