import type { BalanceHost, BalanceVm, ProcessorLoad } from './site.ts';

/** Processors' time that VMs want and don't get: what a move is to reduce. */

/** The density and the distribution of the standard normal distribution. */
const density = (z: number): number => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);

/** Abramowitz and Stegun, Handbook of Mathematical Functions, 26.2.17: off by less than 7.5e-8. */
function upperTail(z: number): number {
  if (z < 0) return 1 - upperTail(-z);
  const t = 1 / (1 + 0.2316419 * z);
  const polynomial = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return density(z) * polynomial;
}

/**
 * Expected processors that are wanted beyond those there are, where what is wanted is normally distributed: the sum of many VMs
 * nearly is (Janus and Rzadca, SLO-aware Colocation of Data Center Tasks, SoCC 2017, on Google's trace).
 */
export function expectedStarvedCpus(meanCpus: number, varianceCpus: number, processors: number): number {
  const spread = Math.sqrt(Math.max(0, varianceCpus));
  if (spread < 1e-9) return Math.max(0, meanCpus - processors);
  const z = (processors - meanCpus) / spread;
  if (z > 8) return 0;
  return Math.max(0, spread * (density(z) - z * upperTail(z)));
}

/** After this time what a VM wants is as uncertain as over hours. */
const forgettingS = 1800;

export interface MoveGain {
  /** Processor-seconds that are not starved any more: while the stress lasts, and later, as long as the VM stays. */
  duringStressCpuS: number;
  laterCpuS: number;
}

const sumLoads = (all: ProcessorLoad, one: ProcessorLoad, times: 1 | -1): ProcessorLoad => ({
  cpus: Math.max(0, all.cpus + times * one.cpus),
  meanCpus: Math.max(0, all.meanCpus + times * one.meanCpus),
  varianceCpus: Math.max(0, all.varianceCpus + times * one.varianceCpus),
});

export const addLoad = (all: ProcessorLoad, one: ProcessorLoad): ProcessorLoad => sumLoads(all, one, 1);
export const removeLoad = (all: ProcessorLoad, one: ProcessorLoad): ProcessorLoad => sumLoads(all, one, -1);

type Loaded = Pick<BalanceHost, 'processors' | 'load'>;

/** What starves on a host in a second: as it is now, or as it is over hours. */
function starvedNow({ processors, load }: Loaded, lastsS: number): number {
  return expectedStarvedCpus(load.cpus, load.varianceCpus * Math.min(1, lastsS / forgettingS), processors);
}
const starvedLater = ({ processors, load }: Loaded): number => expectedStarvedCpus(load.meanCpus, load.varianceCpus, processors);

/**
 * What the move of a VM changes of the starvation on both hosts.
 * @param stressS how much longer the stress is expected to last
 * @param staysS for how long the effect is counted
 */
export function predictGain(
  vm: Pick<BalanceVm, 'load'>,
  source: Loaded,
  target: Loaded,
  stressS: number,
  staysS: number,
): MoveGain {
  const afterSource = { processors: source.processors, load: removeLoad(source.load, vm.load) };
  const afterTarget = { processors: target.processors, load: addLoad(target.load, vm.load) };
  const nowS = Math.min(stressS, staysS);
  const now = starvedNow(source, nowS) + starvedNow(target, nowS) - starvedNow(afterSource, nowS) - starvedNow(afterTarget, nowS);
  const later = starvedLater(source) + starvedLater(target) - starvedLater(afterSource) - starvedLater(afterTarget);
  return { duringStressCpuS: now * nowS, laterCpuS: later * Math.max(0, staysS - nowS) };
}
