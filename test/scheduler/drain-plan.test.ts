import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { drainStrategies } from '../../model/drain.ts';
import type { DrainPlanInput, DrainTarget, DrainVm } from '../../scheduler/drains/drain-input.ts';
import { planDrain, startMarginS } from '../../scheduler/drains/drain-plan.ts';
import { fitMigrationModel } from '../../scheduler/drains/migration-model.ts';
import { type MoveMode, operationsOf } from '../../scheduler/drains/migration-operations.ts';
import { migrationLimits } from '../../scheduler/migration-target.ts';

const now = 1_000_000;
const model = fitMigrationModel([]);

const vm = (id: string, memoryMiB = 256, more: Partial<DrainVm> = {}): DrainVm => ({
  id,
  vcpus: 1,
  memoryMiB,
  load: { vm: id, memoryMiB, residentMiB: null, dirtyMiBPerS: null },
  phase: { kind: 'movable' },
  endsByMs: null,
  cannotSuspendReason: null,
  failed: [],
  ...more,
});
const host = (id: string, more: Partial<DrainTarget> = {}): DrainTarget => ({
  id,
  state: 'up',
  acceptsMigrations: id !== 'h',
  accelerator: 'qemu',
  cpuModel: 'qemu64',
  capacity: { vcpus: 16, memoryMiB: 8192 },
  used: { vcpus: 0, memoryMiB: 0 },
  freeDiskMiB: 100_000,
  given: 0,
  ...more,
});
const question = (more: Partial<DrainPlanInput> = {}): DrainPlanInput => ({
  nowMs: now,
  deadlineMs: now + 3600_000,
  host: 'h',
  strategy: 'auto',
  confidence: 0.99,
  vms: [vm('vm1'), vm('vm2'), vm('vm3')],
  hosts: [host('h'), host('a'), host('b')],
  suspendInPlace: 'never',
  modes: ['live'],
  model,
  ...more,
});

/** A site where concurrent moves each take half as long again. */
const measured = fitMigrationModel(
  Array.from({ length: 24 }, (_, i) => {
    const concurrency = 1 + (i % 2);
    const transferS = (3 + (i % 3) / 10) * (1 + (concurrency - 1) / 2);
    const load = { vm: `m${i}`, memoryMiB: 256, residentMiB: null, dirtyMiBPerS: null };
    const pair = { kind: 'live' as const, from: 'h', to: 'a' };
    return { ...pair, load, concurrency, atMs: i, bytes: 130 * 2 ** 20, transferS, seconds: 1 + transferS };
  }),
);

describe('the plan of a drain', () => {
  it('begins as late as is safe, and not earlier', () => {
    const plan = planDrain(question());
    expect(plan.startMs).toBeCloseTo(now + 3600_000 - (plan.boundS + startMarginS) * 1000, 0);
    expect(plan.emptyByMs).toBeLessThanOrEqual(now + 3600_000);
    expect(plan.boundS).toBeGreaterThan(plan.meanS);
    expect(planDrain(question({ confidence: 0.9 })).startMs).toBeGreaterThan(plan.startMs);
  });

  it('counts the time between moves, and before the first and after the last', () => {
    const beside = (vms: DrainVm[]): number => {
      const plan = planDrain(question({ strategy: 'sequential', vms }));
      return plan.meanS - plan.moves.reduce((sum, { meanS }) => sum + meanS, 0);
    };
    expect(beside([vm('vm1')])).toBeGreaterThan(0.3);
    expect(beside([vm('vm1'), vm('vm2'), vm('vm3')])).toBeGreaterThan(beside([vm('vm1')]) + 0.3);
  });

  it('begins early enough for a target to fetch the image that it lacks', () => {
    const on = (at: string[]) => planDrain(question({ vms: [vm('vm1', 256, { image: { id: 'i', mib: 6000, at } })] }));
    expect(on(['h', 'a', 'b'])).toMatchObject({ boundS: planDrain(question({ vms: [vm('vm1')] })).boundS });
    // A third of 60 MiB/s, as long as this network was not measured.
    expect(on(['h']).meanS - on(['h', 'a', 'b']).meanS).toBeGreaterThan(270);
    expect(on(['h']).earliestMs! - on(['h', 'a', 'b']).earliestMs!).toBeGreaterThan(270_000);
  });

  it('promises time for a fetch that busy guests slow down, also where live migrations were measured to be fast', () => {
    const fast = fitMigrationModel(
      Array.from({ length: 12 }, (_, i) => {
        const load = { vm: `m${i}`, memoryMiB: 256, residentMiB: null, dirtyMiBPerS: null };
        const pair = { kind: 'live' as const, from: 'h', to: 'a', concurrency: 1 };
        return { ...pair, load, atMs: i, bytes: 66 * 2 ** 20, transferS: 0.6, seconds: 1.8 };
      }),
    );
    const on = (at: string[]) =>
      planDrain(question({ model: fast, vms: [vm('vm1', 256, { image: { id: 'i', mib: 321, at } })] }));
    // That image took 27 s while two guests counted, where a migration took two.
    expect(on(['h']).boundS - on(['h', 'a', 'b']).boundS).toBeGreaterThan(27);
  });

  it('moves one at a time while there is time, and several at once when there is not', () => {
    const patient = planDrain(question({ model: measured }));
    expect(patient).toMatchObject({ strategy: 'sequential', concurrency: 1 });
    const hurried = planDrain(question({ model: measured, deadlineMs: now + patient.boundS * 900 }));
    expect(hurried).toMatchObject({ strategy: 'parallel', concurrency: migrationLimits.leaving });
    expect(hurried.boundS).toBeLessThan(patient.boundS);
  });

  it('counts as sharing a target only moves to the same one', () => {
    const two = { strategy: 'parallel' as const, modes: ['cold' as const], vms: [vm('vm1'), vm('vm2')] };
    const apart = planDrain(question(two));
    const together = planDrain(question({ ...two, hosts: [host('h'), host('a')] }));
    const cold = (atTarget: number) => {
      const load = vm('vm1').load;
      const all = operationsOf('cold', { from: 'h', to: 'a', load, concurrency: 2 });
      return model.predict(all.map((one) => (one.kind === 'resume' ? { ...one, concurrency: atTarget } : one))).mean;
    };
    expect(new Set(apart.moves.map(({ to }) => to)).size).toBe(2);
    for (const { meanS } of apart.moves) expect(meanS).toBeCloseTo(cold(1), 6);
    for (const { meanS } of together.moves) expect(meanS).toBeCloseTo(cold(2), 6);
    expect(cold(2)).toBeGreaterThan(cold(1) + 0.5);
  });

  it('reports an impossible deadline at once, and the earliest possible one', () => {
    const plan = planDrain(question({ deadlineMs: now + 500 }));
    expect(plan.emptyByMs).toBeGreaterThan(now + 500);
    expect(plan.earliestMs).toBeGreaterThan(now + 500);
    const later = planDrain(question({ deadlineMs: plan.earliestMs! + 1 }));
    expect(later.emptyByMs).toBeLessThanOrEqual(plan.earliestMs! + 1);
  });

  it('does not move what ends by itself in time, and moves what does not', () => {
    const vms = [vm('soon', 256, { endsByMs: now + 60_000 }), vm('late', 256, { endsByMs: now + 7200_000 })];
    const plan = planDrain(question({ vms }));
    expect(plan.leaving.map(({ vm: id }) => id)).toEqual(['soon']);
    expect(plan.moves.map(({ vm: id }) => id)).toEqual(['late']);
    expect(plan.emptyByMs).toBeLessThanOrEqual(now + 3600_000);
  });

  it('names the VM that blocks, each host’s reason, and when it no longer blocks', () => {
    const big = vm('big', 20_000, { endsByMs: now + 7200_000 });
    const plan = planDrain(question({ vms: [vm('vm1'), big] }));
    expect(plan.blockers).toEqual([{ vm: 'big', why: 'no host can take it (a: memory, b: memory)' }]);
    expect(plan.emptyByMs).toBeNull();
    expect(plan.earliestMs).toBeGreaterThanOrEqual(now + 7200_000);
    expect(planDrain(question({ vms: [vm('x', 20_000)] })).earliestMs).toBeNull();
    const fixed = vm('p', 256, { phase: { kind: 'fixed', why: 'it is paused' } });
    expect(planDrain(question({ vms: [fixed] })).blockers).toEqual([{ vm: 'p', why: 'it is paused' }]);
  });

  it('suspends in place what no host can take, where that was requested, and counts its time', () => {
    const vms = [vm('vm1'), vm('big', 20_000), vm('huge', 30_000)];
    const plan = planDrain(question({ vms, suspendInPlace: 'ifStuck' }));
    expect(plan.moves.map(({ vm: id }) => id)).toEqual(['vm1']);
    expect(plan.suspensions.map(({ vm: id }) => id)).toEqual(['huge', 'big']);
    expect(plan.blockers).toEqual([]);
    const without = planDrain(question({ vms: [vm('vm1')] }));
    const seconds = plan.suspensions.reduce((sum, { meanS }) => sum + meanS, 0);
    expect(seconds).toBeGreaterThan(100);
    expect(plan.meanS).toBeGreaterThan(without.meanS + seconds);
    expect(plan.startMs).toBeCloseTo(now + 3600_000 - (plan.boundS + startMarginS) * 1000, 0);
    expect(plan.emptyByMs).toBeLessThanOrEqual(now + 3600_000);
    // The moves go first; at the latest time the suspension no longer waits for them.
    expect(plan.suspendByMs).toBeGreaterThan(plan.startMs);
    expect(plan.suspendByMs).toBeLessThan(now + 3600_000 - seconds * 1000);
  });

  it('reports as blocking what cannot be suspended, or has no disk space for its memory, with both reasons', () => {
    const vms = [vm('promised', 20_000, { cannotSuspendReason: 'its time was promised to it' }), vm('big', 20_000)];
    const hosts = [host('h', { freeDiskMiB: 10_000 }), host('a')];
    const plan = planDrain(question({ vms, hosts, suspendInPlace: 'ifStuck' }));
    expect(plan.suspensions).toEqual([]);
    expect(plan.blockers).toEqual([
      {
        vm: 'big',
        why: "no host can take it (a: memory); and it can't be suspended there: its memory takes 20000 MiB of a disk with 10000",
      },
      { vm: 'promised', why: "no host can take it (a: memory); and it can't be suspended there: its time was promised to it" },
    ]);
  });

  it('counts no time for what is already suspended, and counts what is being suspended as in progress', () => {
    const asleep = planDrain(question({ vms: [vm('vm1', 256, { suspended: true })], suspendInPlace: 'ifStuck' }));
    expect(asleep).toMatchObject({ suspensions: [{ vm: 'vm1', meanS: 0 }], blockers: [] });
    expect(asleep.boundS).toBeLessThan(3);
    const phase = { kind: 'suspending' as const, sinceMs: now };
    const going = planDrain(question({ vms: [vm('vm1', 2560, { phase })], suspendInPlace: 'ifStuck' }));
    expect([going.suspensions, going.moves, going.blockers]).toEqual([[], [], []]);
    expect(going.meanS).toBeGreaterThan(5);
  });

  it('moves what cannot be moved live by suspending it; where that is not possible, it counts on the longest attempt', () => {
    const wild = vm('wild', 8000, {
      load: { vm: 'wild', memoryMiB: 8000, residentMiB: 8000, dirtyMiBPerS: 50_000 },
    });
    const hosts = [host('h'), host('a', { capacity: { vcpus: 16, memoryMiB: 65_536 } })];
    const tried = planDrain(question({ vms: [wild], hosts }));
    expect(tried.moves[0]).toMatchObject({ mode: 'live', to: 'a' });
    expect(tried.meanS).toBeGreaterThan(100);
    expect(planDrain(question({ vms: [wild], hosts, modes: ['live', 'cold'] })).moves[0]).toMatchObject({
      mode: 'cold',
      to: 'a',
    });
  });

  it('tries another target before the same again, and gives up after two attempts at each', () => {
    const failed = (...to: string[]) =>
      vm('vm1', 256, { failed: to.map((one) => ({ to: one, why: `${one} died`, converges: true })) });
    expect(planDrain(question({ vms: [failed('a')] })).moves[0]?.to).toBe('b');
    expect(planDrain(question({ vms: [failed('a', 'b')] })).moves).toHaveLength(1);
    const plan = planDrain(question({ vms: [failed('a', 'b', 'a', 'b')] }));
    expect(plan.moves).toEqual([]);
    expect(plan.blockers[0]?.why).toContain('a: a died, b: b died');
  });

  it('moves cold what did not converge live, whatever was predicted', () => {
    const failed = [{ to: 'a', why: 'the guest writes 50 MiB/s', converges: false }];
    const moves = (modes: MoveMode[]) => planDrain(question({ vms: [vm('vm1', 256, { failed })], modes })).moves;
    expect(moves(['live', 'cold'])).toMatchObject([{ to: 'b', mode: 'cold' }]);
    expect(moves(['live'])).toMatchObject([{ to: 'b', mode: 'live' }]);
  });

  it('moves a suspended VM as it is: it needs only disk capacity, no suspension and no resumption', () => {
    const [runs, sleeps] = [vm('vm1'), vm('vm1', 256, { suspended: true })];
    const full = [host('h'), host('a', { used: { vcpus: 16, memoryMiB: 8192 } })];
    const cold = (one: DrainVm) => planDrain(question({ vms: [one], hosts: full, modes: ['cold'] }));
    expect(cold(sleeps).moves).toMatchObject([{ to: 'a', mode: 'cold' }]);
    expect(cold(runs).blockers).toMatchObject([{ vm: 'vm1', why: 'no host can take it (a: vcpus)' }]);
    const meanS = (one: DrainVm) => planDrain(question({ vms: [one], modes: ['cold'] })).meanS;
    expect(meanS(sleeps)).toBeLessThan(meanS(runs));
    expect(planDrain(question({ vms: [sleeps], modes: ['live'] })).blockers).toHaveLength(1);
  });

  it('moves the disks along where that is requested, which needs disk space for them and takes its time', () => {
    const disks = { diskMiB: 4096, runsAt: 'h' };
    const load = { vm: 'vm1', memoryMiB: 256, residentMiB: null, dirtyMiBPerS: null, diskMiB: 4096 };
    const hosts = [host('h'), host('a', { freeDiskMiB: 4095 }), host('b', { freeDiskMiB: 4096 })];
    const plan = planDrain(question({ vms: [vm('vm1', 256, { disks, load })], hosts }));
    expect(plan.moves).toMatchObject([{ to: 'b', mode: 'live', withDisks: true }]);
    expect(plan.meanS).toBeGreaterThan(planDrain(question({ vms: [vm('vm1')] })).meanS + 1);
  });

  it('sends disks that remained here after their VM moved to that VM, and nowhere else', () => {
    const left = vm('vm1', 256, { disks: { diskMiB: 512, runsAt: 'a' } });
    const full = { used: { vcpus: 16, memoryMiB: 8192 }, freeDiskMiB: 512 };
    const hosts = [host('h'), host('a', full), host('b', { freeDiskMiB: 512 })];
    expect(planDrain(question({ vms: [left], hosts })).moves).toMatchObject([{ to: 'a', mode: 'disks' }]);
    const noRoom = [host('h'), host('a', { ...full, freeDiskMiB: 511 }), host('b', { freeDiskMiB: 512 })];
    expect(planDrain(question({ vms: [left], hosts: noRoom })).blockers).toMatchObject([
      { why: 'no host can take it (a: disk)' },
    ]);
  });

  it('moves nothing to a host that is silent or closed', () => {
    const hosts = [host('h'), host('a', { state: 'unknown' }), host('b', { acceptsMigrations: false }), host('c')];
    expect(new Set(planDrain(question({ hosts })).moves.map(({ to }) => to))).toEqual(new Set(['c']));
  });

  it('begins earlier when the dirty rate of a VM rises', () => {
    const calm = planDrain(question());
    const load = { vm: 'vm1', memoryMiB: 256, residentMiB: null, dirtyMiBPerS: 50 };
    const busy = planDrain(question({ vms: [vm('vm1', 256, { load }), vm('vm2'), vm('vm3')] }));
    expect(busy.startMs).toBeLessThan(calm.startMs);
  });

  it('counts moves in progress', () => {
    const moving = vm('vm1', 256, { phase: { kind: 'moving', sinceMs: now - 1000, to: 'a', mode: 'live' } });
    const plan = planDrain(question({ vms: [moving, vm('vm2')] }));
    expect(plan.moves.map(({ vm: id, to }) => [id, to])).toEqual([['vm2', 'b']]);
    expect(plan.meanS).toBeGreaterThan(planDrain(question({ vms: [vm('vm2')] })).meanS);
    expect(planDrain(question({ vms: [] }))).toMatchObject({ moves: [], meanS: 0, boundS: 0 });
  });
});

const anyVm = fc
  .record({ memoryMiB: fc.constantFrom(128, 256, 512, 1024), vcpus: fc.integer({ min: 1, max: 4 }) })
  .map(({ memoryMiB, vcpus }) => ({ memoryMiB, vcpus }));

describe('for every question', () => {
  it('no target is given more than its capacity, nor more than one VM above another that could have taken it', () => {
    fc.assert(
      fc.property(
        fc.array(anyVm, { maxLength: 16 }),
        fc.integer({ min: 1, max: 5 }),
        fc.constantFrom(...drainStrategies),
        fc.integer({ min: 0, max: 600 }),
        (sizes, targets, strategy, seconds) => {
          const vms = sizes.map((size, i) => vm(`vm${i}`, size.memoryMiB, { vcpus: size.vcpus }));
          const hosts = [host('h'), ...Array.from({ length: targets }, (_, i) => host(`t${i}`))];
          const plan = planDrain(question({ vms, hosts, strategy, deadlineMs: now + seconds * 1000 }));
          expect(plan.moves.length + plan.blockers.length).toBe(vms.length);
          const given = new Map(hosts.slice(1).map(({ id }) => [id, 0]));
          const taken = new Map(hosts.slice(1).map(({ id }) => [id, { vcpus: 0, memoryMiB: 0 }]));
          for (const { vm: id, to } of plan.moves) {
            const size = vms.find((one) => one.id === id)!;
            given.set(to, given.get(to)! + 1);
            const here = taken.get(to)!;
            taken.set(to, { vcpus: here.vcpus + size.vcpus, memoryMiB: here.memoryMiB + size.memoryMiB });
          }
          for (const { vcpus, memoryMiB } of taken.values()) {
            expect(vcpus).toBeLessThanOrEqual(16);
            expect(memoryMiB).toBeLessThanOrEqual(8192);
          }
          const everywhere = [...taken.values()].every(({ vcpus }) => vcpus + 4 <= 16);
          if (everywhere) expect(Math.max(...given.values()) - Math.min(...given.values())).toBeLessThanOrEqual(1);
        },
      ),
    );
  });

  it('a plan that is in time is in time by its own figures, and one that is not names the earliest time', () => {
    fc.assert(
      fc.property(fc.array(anyVm, { minLength: 1, maxLength: 8 }), fc.integer({ min: 0, max: 900 }), (sizes, seconds) => {
        const vms = sizes.map((size, i) => vm(`vm${i}`, size.memoryMiB));
        const deadlineMs = now + seconds * 1000;
        const plan = planDrain(question({ vms, deadlineMs }));
        expect(plan.startMs).toBeGreaterThanOrEqual(now);
        const sum = vms.reduce(
          (total, one) =>
            total + model.predict(operationsOf('live', { from: 'h', to: 'a', load: one.load, concurrency: 1 })).mean,
          0,
        );
        if (plan.strategy === 'sequential') expect(plan.meanS).toBeGreaterThanOrEqual(sum);
        if (plan.emptyByMs! <= deadlineMs) expect(plan.startMs + plan.boundS * 1000).toBeLessThanOrEqual(deadlineMs + 1);
        else expect(plan.earliestMs!).toBeGreaterThan(deadlineMs);
      }),
    );
  });

  it('the same question has the same answer, in any order of its parts', () => {
    fc.assert(
      fc.property(fc.array(anyVm, { minLength: 1, maxLength: 8 }), fc.integer(), (sizes, seed) => {
        const vms = sizes.map((size, i) => vm(`vm${i}`, size.memoryMiB));
        const turned = vms.map((_, i) => vms[(i + Math.abs(seed)) % vms.length]!);
        expect(planDrain(question({ vms: turned }))).toEqual(planDrain(question({ vms })));
      }),
    );
  });
});
