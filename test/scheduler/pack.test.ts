import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decidePack } from '../../scheduler/balance/pack.ts';
import { host, nowMs, randomSite, site, vm } from './balance-sites.ts';

/** The aim `pack`: which hosts can be emptied, and why others can't. */

const pack = (...given: Parameters<typeof site>) =>
  decidePack(
    site(...given),
    given[0].map(({ id }) => id),
  );
const outcome = ({ host: id, why, moves }: ReturnType<typeof decidePack>[number]) => [id, why, moves.map(({ to }) => to)];

describe('hosts that could be switched off', () => {
  it('are those with the least to move, whose VMs go to the fullest that may take them', () => {
    const decisions = pack(
      [host('a'), host('b'), host('c'), host('empty')],
      [vm('a1', 'a', 0.5), vm('b1', 'b', 2), vm('b2', 'b', 1), vm('c1', 'c', 1), vm('c2', 'c', 0.5)],
      [],
    );
    expect(decisions.map(outcome)).toEqual([
      ['a', null, ['b']],
      ['b', 'receives', []],
      ['c', null, ['b', 'b']],
    ]);
    expect(decisions[0]!.gainCpuS).toBeGreaterThan(decisions[0]!.costCpuS);
  });

  it('are none where one VM stays, or no host takes it, which is said', () => {
    const hosts = [host('a'), host('b', { balance: false }), host('c', { processors: 1 })];
    const vms = [
      vm('a1', 'a', 0.5, { pinned: true }),
      vm('b1', 'b', 1, { memoryMiB: 2048 }),
      vm('c1', 'c', 0.7, { memoryMiB: 4096 }),
    ];
    const [a, b, c] = pack(hosts, vms, []);
    expect([a!.why, a!.keptBy]).toEqual(['vmStays', { vm: 'a1', why: 'pinned', refused: {} }]);
    expect(b!.why).toBe('leftOut');
    expect(outcome(c!)).toEqual(['c', null, ['a']]);
    const [kept] = pack(
      [host('a'), host('c', { processors: 1 })],
      [vm('a1', 'a', 2), vm('c1', 'c', 0.7, { memoryMiB: 4096, pinned: true })],
      [],
    );
    expect([kept!.why, kept!.keptBy]).toEqual(['noTarget', { vm: 'a1', why: null, refused: { processors: 1 } }]);
  });

  it('are not emptied for more than they are worth, nor before a promise', () => {
    const dear = pack(
      [host('a'), host('b')],
      [vm('a1', 'a', 0.5, { diskMiBPerS: 10_000 }), vm('b1', 'b', 1, { memoryMiB: 2048 })],
      [],
    );
    expect(dear[0]!.why).toBe('notWorthwhile');
    expect(dear[0]!.costCpuS).toBeGreaterThan(dear[0]!.gainCpuS / 5);
    const promises = [{ fromMs: nowMs + 1000, vcpus: 1, memoryMiB: 1 }];
    expect(
      pack([host('a', { promises }), host('b')], [vm('a1', 'a', 0.5), vm('b1', 'b', 1, { memoryMiB: 2048 })], [])[0]!.why,
    ).toBe('leftOut');
  });

  it('of random sites: each VM of an emptied host moves once, to a host that keeps its VMs and has room for all of them', () => {
    let emptied = 0;
    fc.assert(
      fc.property(randomSite, (input) => {
        const decisions = decidePack(
          input,
          input.hosts.map(({ id }) => id),
        );
        const empty = decisions.filter(({ why }) => why === null);
        emptied += empty.length;
        const gone = new Set(empty.map(({ host: id }) => id));
        const moves = empty.flatMap((decision) => decision.moves);
        expect(new Set(moves.map((move) => move.vm)).size).toBe(moves.length);
        for (const { host: id, moves: own } of empty)
          expect(own.map((move) => move.vm).toSorted()).toEqual(
            input.vms
              .filter((one) => one.host === id)
              .map((one) => one.id)
              .toSorted(),
          );
        for (const { id, capacity, used, acceptsMigrations, balance, draining, state } of input.hosts) {
          const arrived = moves.filter((move) => move.to === id).map((move) => input.vms.find((one) => one.id === move.vm)!);
          if (arrived.length === 0) continue;
          expect([gone.has(id), acceptsMigrations, balance, draining, state]).toEqual([false, true, true, false, 'up']);
          const memory = arrived.reduce((sum, one) => sum + one.memoryMiB, used.memoryMiB);
          expect(memory).toBeLessThanOrEqual(capacity.memoryMiB);
        }
      }),
    );
    expect(emptied).toBeGreaterThan(0);
  });
});
