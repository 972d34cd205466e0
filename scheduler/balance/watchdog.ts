import type { StressKind, WatchVerdict } from '../../model/load/watch-verdict.ts';
import { median } from '../statistics.ts';

/**
 * The watchdog of a host: a pure function over the series of its load samples. It counts the seconds of stress and takes off
 * the calm ones (Zacharski's points), so that a spike asks for nothing, and learns how long this host's stress lasts, so that a
 * spiky host is given more time than a steady one.
 */

/** What a host measured over an interval. Shares are 0 to 1. */
export interface LoadSample {
  atMs: number;
  /** The length of the interval that ended at `atMs`. */
  durationS: number;
  /** Of the host's processors. */
  use: number;
  /** What VMs waited for a processor, as a part of what they wanted. */
  steal: number;
  /** Pressure stall information, `some`; null: the kernel has none. */
  psi: { cpu: number; memory: number; io: number } | null;
}

export interface WatchState {
  /** Seconds of stress, weighted by its kind, less the calm ones. */
  points: number;
  /** How long the stress has lasted; it is over when no points are left. */
  stressedS: number;
  kind: StressKind | null;
  /** What the host is used to: decaying mean and variance of the use, and how much time they are of. */
  meanUse: number;
  varianceUse: number;
  learnedS: number;
  /** How long each of the latest stresses lasted that ended without help, oldest first. */
  pastStressS: readonly number[];
}

/**
 * `busy` and `starved`: an overload is both, since processors that are busy without waiting VMs are used well. A spike of
 * `spikeS` asks for nothing, with samples of up to 2 s.
 */
export const watchLimits = {
  busy: 0.97,
  starved: 0.05,
  cpuPressure: 0.2,
  memoryPressure: 0.1,
  ioPressure: 0.4,
  useLimit: { least: 0.8, deviations: 3 },
  spikeS: { least: 8, most: 60 },
  /** After a gap one sample counts no more than this. */
  longestSampleS: 10,
} as const;

/** Points a second. An unusual use alone harms nobody yet. */
const weights: Record<StressKind, number> = { processors: 1, memory: 1, io: 0.5, unusual: 0.25 };
/** The time constant of what a host is used to, and the time before which it is not used to anything. */
const learning = { timeS: 3600, leastS: 600 } as const;
/** How many past stresses are kept, and how many it takes to adapt the length of a spike. */
const past = { most: 20, least: 5 } as const;
/** What is assumed without experience counts as much as this many stresses. */
const priorStresses = 2;

export const calmWatch: WatchState = {
  points: 0,
  stressedS: 0,
  kind: null,
  meanUse: 0,
  varianceUse: 0,
  learnedS: 0,
  pastStressS: [],
};

/** The use above which this host's samples are unusual. */
export function useLimitOf({ meanUse, varianceUse, learnedS }: WatchState): number {
  const { least, deviations } = watchLimits.useLimit;
  if (learnedS < learning.leastS) return 1;
  return Math.min(1, Math.max(least, meanUse + deviations * Math.sqrt(varianceUse)));
}

function stressOf(state: WatchState, { use, steal, psi }: LoadSample): StressKind | null {
  const starved = steal >= watchLimits.starved || (psi?.cpu ?? 0) >= watchLimits.cpuPressure;
  if (use >= watchLimits.busy && starved) return 'processors';
  if ((psi?.memory ?? 0) >= watchLimits.memoryPressure) return 'memory';
  if ((psi?.io ?? 0) >= watchLimits.ioPressure) return 'io';
  return use > useLimitOf(state) ? 'unusual' : null;
}

export function observeLoad(state: WatchState, sample: LoadSample): WatchState {
  const seconds = Math.min(sample.durationS, watchLimits.longestSampleS);
  const kind = stressOf(state, sample);
  const learned = learnUse(state, sample.use, seconds);
  if (kind === null) {
    const points = Math.max(0, state.points - seconds);
    if (points > 0) return { ...learned, points };
    const pastStressS = state.stressedS > 0 ? [...state.pastStressS, state.stressedS].slice(-past.most) : state.pastStressS;
    return { ...learned, points: 0, stressedS: 0, kind: null, pastStressS };
  }
  // The stress may have begun late in its first sample, which therefore counts for nothing.
  const isFirst = state.stressedS === 0;
  const points = state.points + (isFirst ? 0 : seconds * weights[kind]);
  // Bounded, so that a long stress is forgotten in a bounded time.
  return { ...learned, points: Math.min(points, 2 * watchLimits.spikeS.most), stressedS: state.stressedS + seconds, kind };
}

/** After a VM has left for it: the stress is over, and how long it would have lasted is not known. */
export function forgetStress(state: WatchState): WatchState {
  return { ...state, points: 0, stressedS: 0, kind: null };
}

function learnUse(state: WatchState, use: number, seconds: number): WatchState {
  const learnedS = state.learnedS + seconds;
  const part = seconds / Math.min(learning.timeS, learnedS);
  const difference = use - state.meanUse;
  const meanUse = state.meanUse + part * difference;
  return { ...state, learnedS, meanUse, varianceUse: (1 - part) * (state.varianceUse + part * difference ** 2) };
}

/** The shortest time after which at least half of the stresses that lasted longer also lasted twice as long. */
function spikeLengthOf(pastStressS: readonly number[]): number {
  const { least, most } = watchLimits.spikeS;
  if (pastStressS.length < past.least) return least;
  const times = [least, ...pastStressS.filter((seconds) => seconds > least && seconds < most)].sort((a, b) => a - b);
  const lasting = times.find((time) => {
    const longer = pastStressS.filter((seconds) => seconds > time);
    return longer.filter((seconds) => seconds > 2 * time).length * 2 >= longer.length;
  });
  return lasting ?? most;
}

export function judgeLoad(state: WatchState, sample: LoadSample): WatchVerdict {
  const spikeS = spikeLengthOf(state.pastStressS);
  const longer = state.pastStressS.filter((seconds) => seconds > state.stressedS);
  const twice = longer.filter((seconds) => seconds > 2 * state.stressedS).length;
  // Without experience, what has lasted is expected to last as long again.
  const further = longer.length === 0 ? 0 : median(longer) - state.stressedS;
  return {
    asks: state.points > spikeS,
    kind: state.kind,
    confidence: state.kind === null ? 0 : (twice + priorStresses / 2) / (longer.length + priorStresses),
    expectedS: (longer.length * further + priorStresses * state.stressedS) / (longer.length + priorStresses),
    seen: {
      points: state.points,
      spikeS,
      useLimit: useLimitOf(state),
      stressedS: state.stressedS,
      use: sample.use,
      steal: sample.steal,
    },
  };
}
