import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  calmWatch,
  forgetStress,
  judgeLoad,
  type LoadSample,
  observeLoad,
  watchLimits,
} from '../../scheduler/balance/watchdog.ts';

const sampleS = 1;
const sample = (atS: number, use: number, steal = use >= 1 ? 0.2 : 0, durationS = sampleS): LoadSample => ({
  atMs: atS * 1000,
  durationS,
  use,
  steal,
  psi: null,
});

/** What a host reports that is overloaded in intervals, in seconds, and else as busy as `base`: means over each sample. */
function samplesOf(lastsS: number, base: number, spikes: [from: number, to: number][], durationS: number): LoadSample[] {
  return Array.from({ length: Math.ceil(lastsS / durationS) }, (_, index) => {
    const from = index * durationS;
    const to = from + durationS;
    const inSpike =
      spikes.reduce((sum, [begin, end]) => sum + Math.max(0, Math.min(end, to) - Math.max(begin, from)), 0) / durationS;
    return sample(to, base + (1 - base) * inSpike, 0.3 * inSpike, durationS);
  });
}

/** The seconds at which help is asked for. */
function asksAt(samples: readonly LoadSample[]): number[] {
  let state = calmWatch;
  const asking: number[] = [];
  for (const one of samples) {
    state = observeLoad(state, one);
    if (judgeLoad(state, one).asks) asking.push(one.atMs / 1000);
  }
  return asking;
}

describe('the watchdog', () => {
  it('asks for nothing after a spike of 8 s, wherever it falls between the samples and however busy the host is', () => {
    fc.assert(
      fc.property(
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.oneof(fc.double({ min: 0, max: 0.99, noNaN: true }), fc.double({ min: 0.94, max: 0.99, noNaN: true })),
        fc.constantFrom(0.5, 1, 2),
        (phase, base, durationS) => {
          expect(asksAt(samplesOf(120, base, [[60 + phase * durationS, 68 + phase * durationS]], durationS))).toEqual([]);
        },
      ),
    );
  });

  it('asks within 10 s of an overload that lasts', () => {
    const asking = asksAt(samplesOf(120, 0.3, [[60, 120]], 1));
    expect(asking[0]).toBeLessThanOrEqual(70);
  });

  it('is not asked for by busy processors alone, which are used well', () => {
    expect(asksAt(Array.from({ length: 20 }, (_, index) => sample(index, 1, 0)))).toEqual([]);
  });

  it('takes calm seconds off: spikes with pauses as long as themselves ask for nothing', () => {
    const spikes = Array.from({ length: 20 }, (_, index): [number, number] => [index * 12, index * 12 + 6]);
    expect(asksAt(samplesOf(240, 0.2, spikes, 1))).toEqual([]);
  });

  it('tells memory and input pressure from an overload', () => {
    const pressed = (psi: NonNullable<LoadSample['psi']>): LoadSample => ({ ...sample(1, 0.5), psi });
    expect(observeLoad(calmWatch, pressed({ cpu: 0, memory: 0.5, io: 0.9 })).kind).toBe('memory');
    expect(observeLoad(calmWatch, pressed({ cpu: 0, memory: 0, io: 0.9 })).kind).toBe('io');
    expect(observeLoad(calmWatch, { ...sample(1, 1, 0), psi: { cpu: 0.5, memory: 0, io: 0 } }).kind).toBe('processors');
  });

  it('waits longer on a host whose stress usually ends by itself, and not on one whose stress lasts', () => {
    const spiky = { ...calmWatch, pastStressS: [9, 10, 11, 12, 10, 9, 11, 14] };
    const steady = { ...calmWatch, pastStressS: [300, 900, 500, 1200, 700, 800] };
    const last = sample(0, 1);
    expect(judgeLoad(spiky, last).seen.spikeS).toBeGreaterThan(watchLimits.spikeS.least);
    expect(judgeLoad(steady, last).seen.spikeS).toBe(watchLimits.spikeS.least);
  });

  it('is surer, and expects more, where past stresses lasted', () => {
    const stressed = { ...calmWatch, kind: 'processors' as const, points: 20, stressedS: 20 };
    const spiky = judgeLoad({ ...stressed, pastStressS: [22, 23, 24, 25, 26] }, sample(0, 1));
    const steady = judgeLoad({ ...stressed, pastStressS: [300, 900, 500, 1200, 700] }, sample(0, 1));
    expect(steady.confidence).toBeGreaterThan(spiky.confidence);
    expect(steady.expectedS).toBeGreaterThan(spiky.expectedS);
  });

  it('learns what a host is used to: the same use is unusual on an idle host alone', () => {
    const usedTo = (use: number): LoadSample[] =>
      [...Array.from({ length: 3600 }, (_, index) => use + (index % 2) * 0.02), ...Array.from({ length: 120 }, () => 0.9)].map(
        (each, index) => sample(index, each, 0),
      );
    expect(asksAt(usedTo(0.2))[0]).toBeGreaterThan(3600);
    expect(asksAt(usedTo(0.88))).toEqual([]);
  });

  it('remembers a stress that ended by itself, and not one that was helped', () => {
    const samples = samplesOf(100, 0.2, [[10, 30]], 1);
    const ended = samples.reduce(observeLoad, calmWatch);
    expect(ended.pastStressS).toHaveLength(1);
    const helped = samples.slice(0, 25).reduce(observeLoad, calmWatch);
    expect(samples.slice(60).reduce(observeLoad, forgetStress(helped)).pastStressS).toEqual([]);
  });

  it('counts no more than a few seconds for a sample after a gap', () => {
    expect(asksAt([sample(100, 1, 0.3, 90)])).toEqual([]);
    const points = [sample(100, 1, 0.3, 1), sample(190, 1, 0.3, 90)].reduce(observeLoad, calmWatch).points;
    expect(points).toBeLessThanOrEqual(watchLimits.longestSampleS);
  });
});
