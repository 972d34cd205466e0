import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { usageByHost, usageOf, usageTotals } from '../../../ledger/vms/usage.ts';

const start = Date.parse('2026-11-21T12:00:00Z');
const at = (ms: number) => new Date(start + ms).toISOString();
const vm = {
  id: 'vm',
  hostId: 'a',
  provider: 'site',
  vcpus: 3,
  memoryMiB: 256,
  startedAt: at(0),
  endedAt: at(1500),
  resumedAt: null,
  suspended: false,
};

describe('usage', () => {
  it('is the resources of a VM times its lifetime', () => {
    expect(usageOf(vm, at(9000))).toMatchObject({ vm: 'vm', host: 'a', vcpuSeconds: 4.5, memoryMiBSeconds: 384 });
  });

  it('counts to now when no end was observed', () => {
    expect(usageOf({ ...vm, endedAt: null }, at(9000))).toMatchObject({ endedAt: at(9000), vcpuSeconds: 27 });
  });

  it('is nothing where no domain ever existed, and never below zero', () => {
    expect(usageOf({ ...vm, startedAt: null }, at(0))).toBeNull();
    expect(usageOf({ ...vm, hostId: null }, at(0))).toBeNull();
    expect(usageOf({ ...vm, endedAt: at(-5000) }, at(0))).toMatchObject({ vcpuSeconds: 0, memoryMiBSeconds: 0 });
  });

  it('leaves out the time in which a VM was suspended, wherever it resumed', () => {
    const stays = [
      { hostId: 'a', provider: 'site', since: null, until: at(100) },
      { hostId: 'a', provider: 'site', since: at(600), until: at(700) },
    ];
    const spans = (one: Partial<typeof vm>) =>
      usageByHost({ ...vm, hostId: 'b', ...one }, stays, at(9000)).map(({ host, startedAt, endedAt }) => [
        host,
        startedAt,
        endedAt,
      ]);
    const before = [
      ['a', at(0), at(100)],
      ['a', at(600), at(700)],
    ];
    expect(spans({ resumedAt: null, suspended: true })).toEqual(before);
    expect(spans({ resumedAt: at(1000) as never })).toEqual([...before, ['b', at(1000), at(1500)]]);
    // It moved while it ran.
    expect(spans({})).toEqual([...before, ['b', at(700), at(1500)]]);
  });

  it('adds up to the millisecond', () => {
    const spans = fc.array(fc.tuple(fc.integer({ min: 1, max: 64 }), fc.nat(10 ** 9)), { maxLength: 64 });
    fc.assert(
      fc.property(spans, (vms) => {
        const usage = vms.flatMap(([vcpus, ms]) => usageOf({ ...vm, vcpus, endedAt: at(ms) }, at(0)) ?? []);
        expect(usageTotals(usage).vcpuSeconds).toBe(vms.reduce((sum, [vcpus, ms]) => sum + vcpus * ms, 0) / 1000);
      }),
    );
  });
});
