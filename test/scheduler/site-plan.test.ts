import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decideSite, type SiteDecision } from '../../scheduler/leases/site/site-plan.ts';
import type { SiteLease, SiteState } from '../../scheduler/leases/site/site-state.ts';
import { figures, hostSize, type LeaseScript, leaseScript, runSite, SimulatedSite } from './simulated-site.ts';

const runs = Number(process.env.BERTH_PROPERTY_RUNS ?? 150);

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

/** A plan with all leases, which one with few of them has to equal. */
function decide(world: SimulatedSite): number | null {
  expect(decideWithFewLeases(world.site(), world.now)).toEqual(decideSite(world.site(), figures, world.now));
  return world.decide();
}

test('plans that are rebuilt from rows keep every promise to the second, exceed no capacity and finish all work', () => {
  let suspensions = 0;
  let promised = 0;
  const property = fc.property(fc.array(leaseScript, { minLength: 1, maxLength: 14 }), (orders) => {
    const { rows } = runSite(orders, decide);
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
  const { rows } = runSite(
    [brief, brief, { ...brief, preemptible: false, workShare: 1 }, { ...brief, afterS: 30, reserveInS: 60, workShare: 1 }],
    decide,
  );
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
