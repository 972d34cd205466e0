import fc from 'fast-check';
import type { WatchVerdict } from '../../model/load/watch-verdict.ts';
import type { LabelRule } from '../../model/placement/rules.ts';
import type { BalanceInput } from '../../scheduler/balance/decision.ts';
import { type BalanceHost, type BalancePolicy, type BalanceVm, balancePolicy } from '../../scheduler/balance/site.ts';
import { addLoad } from '../../scheduler/balance/starvation.ts';
import type { GroupRule } from '../../scheduler/constraints.ts';
import { fitMigrationModel } from '../../scheduler/drains/migration-model.ts';

/** Sites of the balancer: one to build by hand, and random ones. */

export const nowMs = Date.UTC(2026, 10, 29);
const model = fitMigrationModel([]);
const nothing = { cpus: 0, meanCpus: 0, varianceCpus: 0 };

export const overloaded: WatchVerdict = {
  asks: true,
  kind: 'processors',
  confidence: 0.8,
  expectedS: 600,
  seen: { points: 60, spikeS: 8, useLimit: 0.95, stressedS: 600, use: 1, steal: 0.3 },
};

export function host(id: string, changes: Partial<BalanceHost> = {}): BalanceHost {
  return {
    id,
    state: 'up',
    acceptsMigrations: true,
    accelerator: 'kvm',
    cpuModel: 'm',
    capacity: { vcpus: 32, memoryMiB: 65_536 },
    used: { vcpus: 0, memoryMiB: 0 },
    arriving: 0,
    leaving: 0,
    labels: new Map(),
    images: new Set(),
    balance: true,
    draining: false,
    processors: 8,
    load: nothing,
    promises: [],
    vms: 0,
    ...changes,
  };
}

export function vm(id: string, at: string, cpus: number, changes: Partial<BalanceVm> = {}): BalanceVm {
  return {
    id,
    host: at,
    vcpus: Math.max(1, Math.ceil(cpus)),
    memoryMiB: 1024,
    load: { cpus, meanCpus: cpus / 2, varianceCpus: cpus / 4 },
    migration: { vm: id, memoryMiB: 1024, residentMiB: 512, dirtyMiBPerS: 2 },
    diskMiBPerS: 0,
    home: at,
    image: null,
    startedAtMs: nowMs - 4 * 3600_000,
    endsByMs: null,
    pinned: false,
    keep: false,
    promisedHost: false,
    unmovable: null,
    movedAtMs: [],
    labelRules: [],
    groupRules: [],
    ...changes,
  };
}

/** The input with what the VMs take counted at their hosts; hosts of `asking` ask for help. */
export function site(hosts: BalanceHost[], vms: BalanceVm[], asking: string[], verdict = overloaded): BalanceInput {
  const members = new Map<string, Map<string, number>>();
  const counted = hosts.map((one) => ({ ...one, used: { ...one.used } }));
  for (const each of vms) {
    const at = counted.find(({ id }) => id === each.host)!;
    at.used.vcpus += each.vcpus;
    at.used.memoryMiB += each.memoryMiB;
    at.load = addLoad(at.load, each.load);
    at.vms += 1;
    for (const { group } of each.groupRules) {
      const counts = members.get(group) ?? new Map<string, number>();
      counts.set(each.host, (counts.get(each.host) ?? 0) + 1);
      members.set(group, counts);
    }
  }
  const requests = asking.map((id) => ({ host: id, verdict }));
  return { nowMs, hosts: counted, vms, members, requests, policy: balancePolicy, model };
}

const labelRule: fc.Arbitrary<LabelRule> = fc.record({
  label: fc.constantFrom('rack', 'disk'),
  operator: fc.constantFrom('in', 'notIn'),
  values: fc.subarray(['a', 'b'], { minLength: 1 }),
  strength: fc.constantFrom('strict', 'preferred'),
});
const groupRule: fc.Arbitrary<GroupRule> = fc.record({
  group: fc.constantFrom('g1', 'g2'),
  relation: fc.constantFrom('together', 'apart'),
  strength: fc.constantFrom('strict', 'preferred'),
});
const mostly = (value: boolean) => fc.integer({ min: 0, max: 5 }).map((n) => (n === 0 ? !value : value));

/** Moves as many as the rules allow: what is held must not depend on how little a policy moves. */
const eagerPolicy: BalancePolicy = { ...balancePolicy, margin: 1, leastGainS: 0.1, targetUse: 1.2 };

/** Sites where hosts are full, closed, drained, promised, and VMs are pinned, cooling down and constrained, in all mixtures. */
export const randomSite: fc.Arbitrary<BalanceInput> = fc
  .record({
    hosts: fc.array(
      fc.record({
        state: mostly(true).map((up) => (up ? ('up' as const) : ('unknown' as const))),
        acceptsMigrations: mostly(true),
        balance: mostly(true),
        draining: mostly(false),
        arriving: fc.constantFrom(0, 0, 0, 1, 2),
        leaving: fc.integer({ min: 0, max: 1 }),
        vcpus: fc.integer({ min: 8, max: 64 }),
        memoryMiB: fc.integer({ min: 4096, max: 40_000 }),
        labels: fc.dictionary(fc.constantFrom('rack', 'disk'), fc.constantFrom('a', 'b', 'c')),
        promises: fc.array(
          fc.record({
            fromMs: fc.integer({ min: nowMs, max: nowMs + 7200_000 }),
            vcpus: fc.integer({ min: 1, max: 8 }),
            memoryMiB: fc.integer({ min: 256, max: 8192 }),
          }),
          { maxLength: 2 },
        ),
      }),
      { minLength: 3, maxLength: 6 },
    ),
    vms: fc.array(
      fc.record({
        at: fc.constantFrom(0, 0, 0, 0, 1, 1, 2, 3, 4, 5),
        home: fc.nat(5),
        cpus: fc.constantFrom(0, 0.5, 1, 2, 3, 4),
        memoryMiB: fc.integer({ min: 256, max: 2048 }),
        endsInS: fc.option(fc.integer({ min: 0, max: 20_000 })),
        pinned: mostly(false),
        keep: mostly(false),
        promisedHost: mostly(false),
        unmovable: mostly(false).map((is) => (is ? 'it is being made' : null)),
        movedAgoS: fc.oneof(fc.constant([]), fc.array(fc.integer({ min: 0, max: 90_000 }), { maxLength: 3 })),
        labelRules: fc.array(labelRule, { maxLength: 1 }),
        groupRules: fc.uniqueArray(groupRule, { maxLength: 2, selector: ({ group }) => group }),
      }),
      { minLength: 18, maxLength: 28 },
    ),
  })
  .map(({ hosts, vms }) => {
    const name = (index: number): string => `h${index % hosts.length}`;
    const random = site(
      hosts.map(({ vcpus, memoryMiB, labels, ...rest }, index) =>
        host(`h${index}`, { ...rest, capacity: { vcpus, memoryMiB }, labels: new Map(Object.entries(labels)) }),
      ),
      vms.map(({ at, home, cpus, endsInS, movedAgoS, ...rest }, index) =>
        vm(`v${index}`, name(at), cpus, {
          ...rest,
          home: name(home),
          endsByMs: endsInS === null ? null : nowMs + endsInS * 1000,
          movedAtMs: movedAgoS.toSorted((a, b) => b - a).map((seconds) => nowMs - seconds * 1000),
        }),
      ),
      hosts.map((_, index) => `h${index}`),
    );
    return { ...random, policy: eagerPolicy };
  });
