import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decideSpread } from '../../scheduler/balance/decide.ts';
import type { BalanceDecision, BalanceInput } from '../../scheduler/balance/decision.ts';
import type { MoveOffer } from '../../scheduler/balance/offers.ts';
import { balancePolicy, coolingUntilMs, remainingS } from '../../scheduler/balance/site.ts';
import { expectedStarvedCpus } from '../../scheduler/balance/starvation.ts';
import { checkConstraints } from '../../scheduler/constraints.ts';
import { host, nowMs, overloaded, randomSite, site, vm } from './balance-sites.ts';

const numRuns = Number(process.env.BERTH_PROPERTY_RUNS ?? 1000);

const movesOf = (decisions: readonly BalanceDecision[]): MoveOffer[] =>
  decisions.flatMap(({ outcome }) => (outcome.kind === 'move' ? outcome.moves : []));
const whyNot = (decisions: readonly BalanceDecision[]): string[] =>
  decisions.flatMap(({ outcome }) => (outcome.kind === 'stay' ? [outcome.why] : []));

/** Five VMs that want ten of eight processors, and an idle host. */
const overload = (changes: Parameters<typeof vm>[3] = {}): BalanceInput =>
  site(
    [host('a'), host('b')],
    ['1', '2', '3', '4', '5'].map((id) => vm(id, 'a', 2, changes)),
    ['a'],
  );

describe('a move is planned', () => {
  it('from an overloaded host to a free one, and its numbers are reported', () => {
    const [decision] = decideSpread(overload());
    expect(decision!.outcome.kind).toBe('move');
    const [move] = movesOf([decision!]);
    expect(move).toMatchObject({ from: 'a', to: 'b', worthwhile: true });
    // Two processors are missing for the 600 s that the stress is expected to last.
    expect(move!.gain.duringStressCpuS).toBeGreaterThan(0.8 * 2 * 600);
    expect(move!.useAfter.from).toBeCloseTo(1);
    expect(decision!.seen).toBe(overloaded);
    expect(decision!.considered).toContainEqual(move);
  });

  it('of no more VMs than it takes', () => {
    const vms = ['1', '2', '3'].map((id) => vm(id, 'a', 3, { load: { cpus: 3, meanCpus: 1, varianceCpus: 0.5 } }));
    expect(movesOf(decideSpread(site([host('a'), host('b')], vms, ['a'])))).toHaveLength(1);
  });

  it('only if it gains more than it costs', () => {
    const load = { cpus: 2, meanCpus: 0.5, varianceCpus: 0.01 };
    const vms = ['1', '2', '3', '4', '5'].map((id) => vm(id, 'a', 2, { load }));
    const decide = (expectedS: number) => decideSpread(site([host('a'), host('b')], vms, ['a'], { ...overloaded, expectedS }));
    expect(movesOf(decide(600))).toHaveLength(1);
    expect(whyNot(decide(20))).toEqual(['notWorthwhile']);
  });

  it('not of a VM whose guest writes faster than the network sends', () => {
    const migration = { vm: 'x', memoryMiB: 1024, residentMiB: 1024, dirtyMiBPerS: 20_000 };
    expect(movesOf(decideSpread(overload({ migration })))).toEqual([]);
  });

  it('of a VM that stays, rather than of one whose lease ends soon', () => {
    const ending = [1, 2, 3, 4].map((n) => vm(`soon${n}`, 'a', 2, { endsByMs: nowMs + 65_000 }));
    const [move] = movesOf(decideSpread(site([host('a'), host('b')], [...ending, vm('stays', 'a', 2)], ['a'])));
    expect(move!.vm).toBe('stays');
  });

  it('home rather than elsewhere, where the disks are read much', () => {
    const changes = { home: 'b', diskMiBPerS: 50 };
    const vms = ['1', '2', '3', '4', '5'].map((id) => vm(id, 'a', 2, changes));
    const hosts = ['a', 'aa', 'b', 'c'].map((id) => host(id));
    expect(movesOf(decideSpread(site(hosts, vms, ['a'])))[0]!.to).toBe('b');
  });

  it('to the first by id of many equal hosts, whatever their order', () => {
    const ids = ['b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'];
    const vms = ['1', '2', '3', '4', '5'].map((id) => vm(id, 'a', 2));
    for (const order of [ids, ids.toReversed()]) {
      const hosts = ['a', ...order].map((id) => host(id));
      expect(movesOf(decideSpread(site(hosts, vms, ['a'])))[0]!.to).toBe('b');
    }
  });

  it('rather of a VM that its owner did not ask to keep', () => {
    const vms = ['1', '2', '3', '4'].map((id) => vm(id, 'a', 2, { keep: true }));
    expect(movesOf(decideSpread(site([host('a'), host('b')], [...vms, vm('5', 'a', 2)], ['a'])))[0]!.vm).toBe('5');
  });
});

describe('the answer "no" has its reason', () => {
  it.each([
    ['leftOut', [host('a', { balance: false }), host('b')], {}],
    ['leftOut', [host('a', { draining: true }), host('b')], {}],
    ['leaving', [host('a', { leaving: 2 }), host('b')], {}],
    ['noMovableVm', [host('a'), host('b')], { pinned: true }],
    ['noTarget', [host('a'), host('b', { acceptsMigrations: false })], {}],
  ])('%s', (why, hosts, changes) => {
    const decisions = decideSpread(
      site(
        hosts,
        ['1', '2', '3', '4', '5'].map((id) => vm(id, 'a', 2, changes)),
        ['a'],
      ),
    );
    expect(whyNot(decisions)).toEqual([why]);
  });

  it('counts VMs and hosts by what kept them', () => {
    const vms = [vm('p', 'a', 5, { pinned: true }), vm('c', 'a', 5, { movedAtMs: [nowMs - 1000] }), vm('m', 'a', 2)];
    const hosts = [host('a'), host('b', { acceptsMigrations: false }), host('c', { draining: true })];
    expect(decideSpread(site(hosts, vms, ['a']))[0]).toMatchObject({
      stayed: { pinned: 1, coolingDown: 1 },
      refused: { closed: 1, draining: 1, processors: 1 },
    });
  });

  it('is given for a stress that is not of processors', () => {
    const input = site([host('a'), host('b')], [vm('1', 'a', 2)], ['a'], { ...overloaded, kind: 'memory' });
    expect(whyNot(decideSpread(input))).toEqual(['notProcessors']);
  });
});

describe('every decision about a random site', () => {
  /** What is counted at a host after the moves, without the code of the balancer. */
  const holds = (check: (input: BalanceInput, moves: MoveOffer[]) => void): void => {
    fc.assert(
      fc.property(randomSite, (input) => check(input, movesOf(decideSpread(input)))),
      { numRuns },
    );
  };
  const vmOf = (input: BalanceInput, move: MoveOffer) => input.vms.find(({ id }) => id === move.vm)!;
  const hostOf = (input: BalanceInput, id: string) => input.hosts.find((each) => each.id === id)!;
  const arrivals = (input: BalanceInput, moves: readonly MoveOffer[], to: string) =>
    moves.filter((move) => move.to === to).map((move) => vmOf(input, move));

  it('moves something in many of them', () => {
    const counts = fc.sample(randomSite, { numRuns: 300, seed: 1 }).map((input) => movesOf(decideSpread(input)).length);
    expect(counts.filter((count) => count > 0).length).toBeGreaterThan(50);
  });

  it('never fills a target above its capacity', () => {
    holds((input, moves) => {
      for (const { id, used, capacity } of input.hosts) {
        const arriving = arrivals(input, moves, id);
        if (arriving.length === 0) continue;
        expect(used.vcpus + arriving.reduce((sum, { vcpus }) => sum + vcpus, 0)).toBeLessThanOrEqual(capacity.vcpus);
        expect(used.memoryMiB + arriving.reduce((sum, { memoryMiB }) => sum + memoryMiB, 0)).toBeLessThanOrEqual(
          capacity.memoryMiB,
        );
      }
    });
  });

  it('never moves against a promise', () => {
    holds((input, moves) => {
      for (const move of moves) expect(vmOf(input, move).promisedHost).toBe(false);
      for (const { id, used, capacity, promises } of input.hosts) {
        const arriving = arrivals(input, moves, id);
        for (const { fromMs } of promises) {
          const still = arriving.filter(({ endsByMs }) => endsByMs === null || endsByMs > fromMs);
          if (still.length === 0) continue;
          const begun = promises.filter((promise) => promise.fromMs <= fromMs);
          const sum = (of: (one: { vcpus: number; memoryMiB: number }) => number) =>
            [...still, ...begun].reduce((all, one) => all + of(one), of(used));
          expect(sum(({ vcpus }) => vcpus)).toBeLessThanOrEqual(capacity.vcpus);
          expect(sum(({ memoryMiB }) => memoryMiB)).toBeLessThanOrEqual(capacity.memoryMiB);
        }
      }
    });
  });

  it('never moves a VM that is pinned, cooling down or not movable', () => {
    holds((input, moves) => {
      for (const move of moves) {
        const { pinned, unmovable, movedAtMs } = vmOf(input, move);
        expect({ pinned, unmovable }).toEqual({ pinned: false, unmovable: null });
        const last = movedAtMs.at(-1);
        if (last !== undefined) expect(nowMs - last).toBeGreaterThanOrEqual(600_000);
      }
    });
  });

  it('never uses a host that is closed, unknown, left out or drained, nor moves away from one that is left out or drained', () => {
    holds((input, moves) => {
      for (const { from, to } of moves) {
        expect(hostOf(input, to)).toMatchObject({ state: 'up', acceptsMigrations: true, balance: true, draining: false });
        expect(hostOf(input, from)).toMatchObject({ state: 'up', balance: true, draining: false });
      }
    });
  });

  it('never has more migrations at a host than two in each direction', () => {
    holds((input, moves) => {
      for (const { id, arriving, leaving } of input.hosts) {
        const to = moves.filter((move) => move.to === id).length;
        const from = moves.filter((move) => move.from === id).length;
        if (to > 0) expect(arriving + to).toBeLessThanOrEqual(2);
        if (from > 0) expect(leaving + from).toBeLessThanOrEqual(2);
      }
    });
  });

  it('never breaks a strict rule that was met before', () => {
    holds((input, moves) => {
      const at = new Map(input.vms.map(({ id, host: here }) => [id, here]));
      for (const move of moves) at.set(move.vm, move.to);
      for (const move of moves) {
        const moved = vmOf(input, move);
        for (const { label, operator, values, strength } of moved.labelRules) {
          const value = hostOf(input, move.to).labels.get(label);
          if (strength === 'strict') expect(value !== undefined && values.includes(value)).toBe(operator === 'in');
        }
        for (const { group, relation, strength } of moved.groupRules) {
          const others = input.vms.filter(
            ({ id, groupRules }) => id !== moved.id && groupRules.some((rule) => rule.group === group),
          );
          const here = others.filter(({ id }) => at.get(id) === move.to).length;
          const before = others.filter(({ host: was }) => was === move.to).length;
          // The others may move as well, by the same decision, and only to where their own rules allow.
          if (strength === 'strict' && relation === 'apart') expect(Math.min(here, before)).toBe(0);
        }
      }
    });
  });

  it('is the same every time, whatever the order of hosts and VMs', () => {
    fc.assert(
      fc.property(randomSite, fc.nat(), (input, turn) => {
        const turned = <T>(list: readonly T[]): T[] => [...list.slice(turn % list.length), ...list.slice(0, turn % list.length)];
        const other = { ...input, hosts: turned(input.hosts), vms: turned(input.vms), requests: turned(input.requests) };
        const before = JSON.stringify(input);
        expect(decideSpread(other)).toEqual(decideSpread(input));
        expect(JSON.stringify(input)).toBe(before);
      }),
      { numRuns: numRuns / 4 },
    );
  });

  it('moves only what is worth its cost, and gives a reason for each host that asked', () => {
    fc.assert(
      fc.property(randomSite, (input) => {
        const decisions = decideSpread(input);
        expect(decisions.map((decision) => decision.host).sort()).toEqual(input.requests.map((request) => request.host).sort());
        for (const { gain, cost, unmet } of movesOf(decisions))
          if (unmet <= 0) continue;
          else expect(gain.duringStressCpuS + gain.laterCpuS).toBeGreaterThan(cost.cpuS);
      }),
      { numRuns: numRuns / 4 },
    );
  });
});

describe('a constraint', () => {
  const at = (id: string, labels: Record<string, string> = {}) => ({ id, labels: new Map(Object.entries(labels)) });
  const none = { host: null, labelRules: [], groupRules: [] };
  it('of labels is strict or preferred', () => {
    const rule = { label: 'rack', operator: 'in' as const, values: ['a'] };
    const strict = { ...none, labelRules: [{ ...rule, strength: 'strict' as const }] };
    expect(checkConstraints(strict, at('x', { rack: 'b' }), new Map())).toEqual({ kind: 'refused', filter: 'label' });
    expect(checkConstraints(strict, at('x', { rack: 'a' }), new Map())).toEqual({ kind: 'allowed', unmet: 0 });
    const preferred = { ...none, labelRules: [{ ...rule, strength: 'preferred' as const }] };
    expect(checkConstraints(preferred, at('x'), new Map())).toEqual({ kind: 'allowed', unmet: 1 });
  });

  it('keeps members of a group together, or apart', () => {
    const members = new Map([['g', new Map([['x', 1]])]]);
    const rule = (relation: 'together' | 'apart') => ({
      ...none,
      groupRules: [{ group: 'g', relation, strength: 'strict' as const }],
    });
    expect(checkConstraints(rule('apart'), at('x'), members)).toEqual({ kind: 'refused', filter: 'apart' });
    expect(checkConstraints(rule('apart'), at('y'), members).kind).toBe('allowed');
    expect(checkConstraints(rule('together'), at('y'), members)).toEqual({ kind: 'refused', filter: 'together' });
    expect(checkConstraints(rule('together'), at('x'), members).kind).toBe('allowed');
    expect(checkConstraints(rule('together'), at('y'), new Map()).kind).toBe('allowed');
  });

  it('does not count the VM itself', () => {
    const own = {
      host: 'x',
      labelRules: [],
      groupRules: [{ group: 'g', relation: 'apart' as const, strength: 'strict' as const }],
    };
    expect(checkConstraints(own, at('x'), new Map([['g', new Map([['x', 1]])]])).kind).toBe('allowed');
  });
});

describe('what is predicted', () => {
  it('is the mean of what a normal distribution has beyond the processors', () => {
    expect(expectedStarvedCpus(10, 0, 8)).toBe(2);
    expect(expectedStarvedCpus(0, 1, 0)).toBeCloseTo(1 / Math.sqrt(2 * Math.PI), 6);
    expect(expectedStarvedCpus(7, 1, 8)).toBeCloseTo(0.0833155, 6);
    expect(expectedStarvedCpus(1, 1, 100)).toBe(0);
  });

  it('is a cool-down that grows with each move of a day', () => {
    const cooling = (...agoS: number[]) =>
      (coolingUntilMs(
        agoS.map((s) => nowMs - s * 1000),
        nowMs,
        balancePolicy,
      ) -
        nowMs) /
      1000;
    expect(cooling(0)).toBe(600);
    expect(cooling(4000, 0)).toBe(1200);
    expect(cooling(8000, 4000, 0)).toBe(2400);
    expect(cooling(100_000, 0)).toBe(600);
  });

  it('is how long a VM stays: to the end of its lease, or as long again', () => {
    expect(remainingS({ endsByMs: nowMs + 5000, startedAtMs: 0 }, nowMs)).toBe(5);
    expect(remainingS({ endsByMs: null, startedAtMs: nowMs - 7200_000 }, nowMs)).toBe(7200);
  });
});
