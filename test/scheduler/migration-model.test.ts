import fc from 'fast-check';
import jstat from 'jstat';
import { describe, expect, it } from 'vitest';
import { convergencePolicy } from '../../model/migration.ts';
import { fitMigrationModel } from '../../scheduler/drains/migration-model.ts';
import {
  type Load,
  type MigrationOperation,
  type MigrationSample,
  type MoveMode,
  moveModes,
  operationKinds,
  operationsOf,
} from '../../scheduler/drains/migration-operations.ts';
import { estimatePreCopy } from '../../scheduler/drains/pre-copy.ts';
import { regress, upperBound } from '../../scheduler/drains/regression.ts';

const load = (memoryMiB: number, more: Partial<Load> = {}): Load => ({
  vm: 'vm',
  memoryMiB,
  residentMiB: null,
  dirtyMiBPerS: null,
  ...more,
});
const live = (memoryMiB: number, more: Partial<MigrationOperation> = {}): MigrationOperation => ({
  kind: 'live',
  from: 'a',
  to: 'b',
  load: load(memoryMiB),
  concurrency: 1,
  ...more,
});

/** Repeatable noise around 1. */
function seededNoise(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1103515245 + 12345) % 2 ** 31;
    return state / 2 ** 31;
  };
}

/** A site on which a migration takes a second and transfers its bytes at this rate in MiB/s, within a tenth. */
function samplesOfSite(mibPerS: number, count: number, more: Partial<MigrationSample> = {}, seed = 1): MigrationSample[] {
  const random = seededNoise(seed);
  return Array.from({ length: count }, (_, i): MigrationSample => {
    const memoryMiB = [128, 192, 256, 384, 512][i % 5]!;
    const mib = memoryMiB * 0.5;
    const transferS = (mib / mibPerS) * (0.9 + 0.2 * random());
    const sample = { kind: 'live' as const, from: 'a', to: 'b', concurrency: 1, atMs: i, bytes: mib * 2 ** 20, ...more };
    return { ...sample, load: load(memoryMiB, { vm: `vm-${seed}-${i}` }), transferS, seconds: 1 + transferS + 0.1 * random() };
  });
}

describe('Student’s t, the basis of the bounds', () => {
  // NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, upper critical values.
  it.each([
    [0.99, 2, 6.965],
    [0.99, 10, 2.764],
    [0.95, 5, 2.015],
    [0.975, 30, 2.042],
    [0.999, 4, 7.173],
  ])('at %d with %d degrees of freedom is %d', (p, dof, expected) => expect(jstat.studentt.inv(p, dof)).toBeCloseTo(expected, 2));
});

describe('the regression', () => {
  const prior = { mean: [1, 1], sd: [1, 1], noise: 0.5, strength: 2 };

  it('finds the line of the data, and its confidence grows with their number', () => {
    const random = seededNoise(3);
    const observe = (count: number) =>
      Array.from({ length: count }, (_, i) => ({
        x: [1, i],
        y: 3 + 2 * i + 0.2 * (random() - 0.5),
        scale: 1,
        weight: 1,
      }));
    const few = regress(observe(5), prior).predict([{ x: [1, 4], scale: 1 }]);
    const many = regress(observe(200), prior).predict([{ x: [1, 4], scale: 1 }]);
    expect(many.mean).toBeCloseTo(11, 1);
    expect(many.spread).toBeLessThan(few.spread);
    expect(many.dof).toBeGreaterThan(few.dof);
  });

  it('bounds future values as often as its confidence states', () => {
    const random = seededNoise(11);
    const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const draw = (x: number) => ({ x: [1, x], y: 2 + x * 1.5 + 0.3 * normal(), scale: 1, weight: 1 });
    let held = 0;
    const rounds = 2000;
    for (let round = 0; round < rounds; round++) {
      const seen = Array.from({ length: 10 }, () => draw(10 * random()));
      const next = draw(10 * random());
      if (next.y <= upperBound(regress(seen, prior).predict([next]), 0.95)) held += 1;
    }
    // Conservative with few data, never optimistic.
    expect(held / rounds).toBeGreaterThan(0.94);
  });

  it('bounds a sum no looser than the sum of the bounds of its parts', () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0.1, max: 50, noNaN: true }), { minLength: 2, maxLength: 8 }),
        fc.double({ min: 0.6, max: 0.999, noNaN: true }),
        (xs, confidence) => {
          const regression = regress([], prior);
          const terms = xs.map((x) => ({ x: [1, x], scale: 1 + x }));
          const together = upperBound(regression.predict(terms), confidence);
          const apart = terms.reduce((sum, term) => sum + upperBound(regression.predict([term]), confidence), 0);
          expect(together).toBeLessThanOrEqual(apart + 1e-6);
        },
      ),
    );
  });
});

describe('a pre-copy', () => {
  const order = { memoryMiB: 256, dirtyMiBPerS: 0, bandwidthMiBPerS: 50, policy: convergencePolicy };

  it('of a guest at rest transfers its memory once', () => {
    expect(estimatePreCopy(order)).toMatchObject({ converges: true, rounds: 1, sentMiB: 256, downtimeS: 0 });
  });

  it('of a guest with a dirty rate above the bandwidth does not end, unless throttling it helps', () => {
    expect(estimatePreCopy({ ...order, dirtyMiBPerS: 40, memoryMiB: 2048 }).converges).toBe(true);
    expect(estimatePreCopy({ ...order, dirtyMiBPerS: 5000, memoryMiB: 60_000 }).converges).toBe(false);
  });

  it('takes no less time for more memory, a higher dirty rate or less bandwidth', () => {
    const sizes = fc.double({ min: 1, max: 4096, noNaN: true });
    fc.assert(
      fc.property(
        sizes,
        fc.double({ min: 0, max: 200, noNaN: true }),
        fc.double({ min: 1, max: 500, noNaN: true }),
        (m, d, b) => {
          const base = { ...order, memoryMiB: m, dirtyMiBPerS: d, bandwidthMiBPerS: b };
          const { seconds, downtimeS } = estimatePreCopy(base);
          expect(seconds).toBeGreaterThanOrEqual(0);
          const idle = estimatePreCopy({ ...base, dirtyMiBPerS: 0 });
          expect(seconds + downtimeS).toBeGreaterThanOrEqual(Math.min(idle.seconds, 120) - 1e-9);
          const wider = estimatePreCopy({ ...base, dirtyMiBPerS: 0, bandwidthMiBPerS: b * 2 });
          expect(wider.seconds).toBeLessThanOrEqual(idle.seconds + 1e-9);
        },
      ),
    );
  });
});

describe('the model of migrations', () => {
  it('answers without data, with a bound that reflects how little is known', () => {
    const model = fitMigrationModel([]);
    for (const mode of moveModes) {
      const one = model.predict(operationsOf(mode, { from: 'a', to: 'b', load: load(256), concurrency: 1 }));
      expect(one.mean).toBeGreaterThan(1);
      expect(one.mean).toBeLessThan(30);
      expect(upperBound(one, 0.99)).toBeGreaterThan(1.8 * one.mean);
    }
  });

  it('after ten measurements is right within 15 %, and its 99 % bound holds', () => {
    const errors: number[] = [];
    let held = 0;
    let requested = 0;
    for (let seed = 1; seed <= 40; seed++) {
      const model = fitMigrationModel(samplesOfSite(40, 10, {}, seed));
      for (const next of samplesOfSite(40, 5, {}, seed + 1000)) {
        const prediction = model.predict([next]);
        errors.push(Math.abs(prediction.mean / next.seconds - 1));
        requested += 1;
        if (next.seconds <= upperBound(prediction, 0.99)) held += 1;
      }
    }
    expect(errors.reduce((sum, error) => sum + error, 0) / errors.length).toBeLessThan(0.15);
    expect(held / requested).toBeGreaterThanOrEqual(0.99);
  });

  it('distinguishes a slower pair of hosts from the others', () => {
    const samples = [...samplesOfSite(80, 12), ...samplesOfSite(10, 12, { from: 'a', to: 'c' }, 5)];
    const model = fitMigrationModel(samples.map((sample, i) => ({ ...sample, atMs: i })));
    const quick = model.predict([live(256)]).mean;
    const slow = model.predict([live(256, { to: 'c' })]).mean;
    expect(slow / quick).toBeGreaterThan(3);
    expect(model.bandwidth('live', 'a', 'c')).toBeLessThan(13);
  });

  it('does not predict for every move the outlier of one, and widens its bound all the same', () => {
    const usual = samplesOfSite(40, 12);
    const hung = usual.map((sample, i) => (i === 8 ? { ...sample, seconds: sample.seconds + 20 } : sample));
    const [before, after] = [usual, hung].map((samples) => fitMigrationModel(samples).predict([live(256)]));
    expect(after!.mean).toBeLessThan(1.25 * before!.mean);
    expect(upperBound(after!, 0.99)).toBeGreaterThan(1.2 * upperBound(before!, 0.99));
  });

  it('uses the bytes that a VM transferred the last time', () => {
    const before = samplesOfSite(40, 10);
    const big: MigrationSample = {
      ...before[0]!,
      load: load(512, { vm: 'big' }),
      bytes: 500 * 2 ** 20,
      transferS: 12.5,
      seconds: 13.6,
      atMs: 99,
    };
    const model = fitMigrationModel([...before, big]);
    const own = model.predict([live(512, { load: load(512, { vm: 'big' }) })]).mean;
    const other = model.predict([live(512, { load: load(512, { vm: 'other' }) })]).mean;
    expect(own).toBeGreaterThan(1.4 * other);
  });

  it('does not count twice what a VM wrote during the move before: the transferred bytes include it', () => {
    const writing = load(256, { vm: 'writing', residentMiB: 180, dirtyMiBPerS: 8 });
    const before: MigrationSample = {
      ...samplesOfSite(12, 1)[0]!,
      load: writing,
      bytes: 105 * 2 ** 20,
      transferS: 9,
      seconds: 9.5,
      atMs: 99,
    };
    const model = fitMigrationModel([...samplesOfSite(12, 10), before]);
    const again = (dirtyMiBPerS: number) => model.predict([live(256, { load: { ...writing, dirtyMiBPerS } })]).mean;
    expect(again(8)).toBeLessThan(12);
    // Samples of one second differ by this much.
    expect(again(14)).toBe(again(8));
    expect(again(30)).toBeGreaterThan(again(8) + 3);
  });

  it('learns the fraction of a process’s memory that is transferred', () => {
    const held = samplesOfSite(12, 10).map(
      (one): MigrationSample => ({ ...one, load: { ...one.load, residentMiB: one.load.memoryMiB } }),
    );
    const model = fitMigrationModel(held);
    const { sentMiB } = model.preCopy(live(256, { load: load(256, { residentMiB: 200, dirtyMiBPerS: 0 }) }));
    expect(sentMiB).toBeCloseTo(100, 0);
  });

  it('predicts only the changes for a copy to a former host of a VM, and no lower rate because the bytes are few', () => {
    const copy = (i: number, from: string, to: string, mib: number, seconds: number): MigrationSample => {
      const one = { kind: 'copy' as const, from, to, concurrency: 1, load: load(256, { vm: `vm${i % 4}` }) };
      return { ...one, atMs: i, bytes: mib * 2 ** 20, transferS: seconds, seconds };
    };
    // All of four VMs to another host, and back again.
    const there = [0, 1, 2, 3].map((i) => copy(i, 'a', 'b', 60, 6.2));
    const back = [4, 5, 6, 7].map((i) => copy(i, 'b', 'a', 2, 1.4));
    const predict = (from: string, to: string, vm: string) => {
      const model = fitMigrationModel([...there, ...back]);
      return model.predict([{ kind: 'copy', from, to, concurrency: 1, load: load(256, { vm }) }]).mean;
    };
    expect(predict('a', 'b', 'vm1')).toBeLessThan(2.5);
    expect(predict('a', 'c', 'vm1')).toBeGreaterThan(4);
    expect(predict('a', 'c', 'vm1')).toBeLessThan(9);
  });

  it('learns the cost of concurrent moves', () => {
    const alone = samplesOfSite(40, 12);
    const pairs = samplesOfSite(20, 12, { concurrency: 2 }, 9).map((sample, i) => ({ ...sample, atMs: 100 + i }));
    const model = fitMigrationModel([...alone, ...pairs]);
    const one = model.predict([live(256)]).mean;
    const beside = model.predict([live(256, { concurrency: 2 })]).mean;
    expect(beside).toBeGreaterThan(1.3 * one);
    // Done sooner than one after the other, and worse for each: the paper's finding.
    expect(beside).toBeLessThan(2 * one);
  });

  it('uses the polynomial only where the data are curved', () => {
    const straight = fitMigrationModel(samplesOfSite(40, 20));
    expect(straight.chosen.live.form).not.toBe('polynomial');
    const bent = samplesOfSite(40, 30).map((sample) => {
      const transferS = sample.bytes / 2 ** 20 / 40;
      return { ...sample, kind: 'suspend' as const, transferS, seconds: 0.5 + transferS ** 2 };
    });
    expect(fitMigrationModel(bent).chosen.suspend.form).toBe('polynomial');
  });

  it('gives a cold migration the sum of its phases', () => {
    const model = fitMigrationModel([]);
    const order = { from: 'a', to: 'b', load: load(256), concurrency: 1 };
    const parts = operationsOf('cold', order).map((one) => model.predict([one]).mean);
    expect(model.predict(operationsOf('cold', order)).mean).toBeCloseTo(
      parts.reduce((sum, part) => sum + part, 0),
      6,
    );
    expect(operationsOf('cold', order).map(({ kind }) => kind)).toEqual(['suspend', 'copy', 'resume']);
  });

  it('never promises an invalid time, whatever was measured', () => {
    const figures = fc.double({ min: 0, max: 1e4, noNaN: true });
    const sample = fc.record({
      kind: fc.constantFrom(...operationKinds),
      from: fc.constantFrom('a', 'b'),
      to: fc.constantFrom('b', 'c'),
      concurrency: fc.double({ min: 1, max: 4, noNaN: true }),
      atMs: fc.integer({ min: 0, max: 1000 }),
      seconds: fc.double({ min: 0.01, max: 1e4, noNaN: true }),
      transferS: figures,
      bytes: fc.integer({ min: 0, max: 2 ** 36 }),
      load: fc.record({
        vm: fc.constantFrom('x', 'y'),
        memoryMiB: fc.integer({ min: 1, max: 65_536 }),
        residentMiB: fc.option(figures),
        dirtyMiBPerS: fc.option(figures),
      }),
    });
    fc.assert(
      fc.property(fc.array(sample, { maxLength: 30 }), fc.constantFrom<MoveMode>(...moveModes), (samples, mode) => {
        const model = fitMigrationModel(samples);
        const prediction = model.predict(operationsOf(mode, { from: 'a', to: 'b', load: load(256), concurrency: 2 }));
        expect(prediction.mean).toBeGreaterThan(0);
        expect(Number.isFinite(prediction.mean)).toBe(true);
        expect(upperBound(prediction, 0.99)).toBeGreaterThanOrEqual(prediction.mean);
        expect(upperBound(prediction, 0.999)).toBeGreaterThanOrEqual(upperBound(prediction, 0.9));
      }),
      { numRuns: 60 },
    );
  });
});

describe('the recovery time of VMs', () => {
  const moved = (vm: string, recoveryS: number | null): MigrationSample => ({
    ...samplesOfSite(50, 1)[0]!,
    load: load(256, { vm }),
    recoveryS,
  });

  it('is the median of its own moves, else that of all, and unknown before the first', () => {
    expect(fitMigrationModel([moved('a', null)]).recoveryS('a')).toBeNull();
    const model = fitMigrationModel([moved('a', 2), moved('a', 9), moved('a', 3), moved('b', 20), moved('b', null)]);
    expect([model.recoveryS('a'), model.recoveryS('b'), model.recoveryS('c')]).toEqual([3, 20, 6]);
  });
});
