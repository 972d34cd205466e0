import { checkConstraints, type GroupMembers } from '../constraints.ts';
import type { MigrationModel } from '../drains/migration-model.ts';
import { failedTargetFilter, type TargetFilter } from '../migration-target.ts';
import { type MigrationPredictions, type MoveCost, moveCost } from './cost.ts';
import { type BalanceHost, type BalancePolicy, type BalanceVm, coolingUntilMs, type ProcessorLoad, remainingS } from './site.ts';
import { addLoad, type MoveGain, predictGain, removeLoad } from './starvation.ts';

/** Why a VM is not moved, whatever the target. */
export type StayFilter = 'pinned' | 'promisedHost' | 'unmovable' | 'coolingDown' | 'ending';

/** Why a host does not offer to take a VM, beyond what every migration asks of a target. */
export type OfferFilter = TargetFilter | 'leftOut' | 'draining' | 'promise' | 'processors' | 'noConvergence';

/** What a decision knows besides the hosts. */
export interface OfferContext {
  nowMs: number;
  policy: BalancePolicy;
  model: MigrationModel;
  members: GroupMembers;
  predictions: MigrationPredictions;
}

/** A host's offer to take a VM, with what is predicted of the move. */
export interface MoveOffer {
  vm: string;
  from: string;
  to: string;
  gain: MoveGain;
  cost: MoveCost;
  /** Preferred rules that the target does not meet, less those that the source doesn't. */
  unmet: number;
  /** Processor-seconds: the gain, less the cost and the unmet rules. */
  netCpuS: number;
  /** Whether the gain is worth the cost. */
  worthwhile: boolean;
  /** For how long its effect was counted. */
  staysS: number;
  /** The parts of the processors that are wanted after the move. */
  useAfter: { from: number; to: number };
}

/** A VM that leaves within this time takes its load away by itself. */
const leastStayS = 300;

export function stayFilterOf(vm: BalanceVm, { nowMs, policy }: Pick<OfferContext, 'nowMs' | 'policy'>): StayFilter | null {
  if (vm.pinned) return 'pinned';
  if (vm.promisedHost) return 'promisedHost';
  if (vm.unmovable !== null) return 'unmovable';
  if (coolingUntilMs(vm.movedAtMs, nowMs, policy) > nowMs) return 'coolingDown';
  return remainingS(vm, nowMs) < leastStayS ? 'ending' : null;
}

/** Whether what is promised of the host until the VM's end still fits with the VM on it. */
function breaksPromise(vm: BalanceVm, { promises, used, capacity }: BalanceHost): boolean {
  const endsMs = vm.endsByMs ?? Number.POSITIVE_INFINITY;
  const promised = promises.filter(({ fromMs }) => fromMs < endsMs);
  if (promised.length === 0) return false;
  const sum = (of: (one: { vcpus: number; memoryMiB: number }) => number) => promised.reduce((all, one) => all + of(one), of(vm));
  return (
    used.vcpus + sum(({ vcpus }) => vcpus) > capacity.vcpus ||
    used.memoryMiB + sum(({ memoryMiB }) => memoryMiB) > capacity.memoryMiB
  );
}

/** The part of the processors that is wanted: now or over hours, whichever is more. */
const useOf = ({ cpus, meanCpus }: ProcessorLoad, processors: number): number => Math.max(cpus, meanCpus) / processors;

/** The processors that the host's VMs leave free of the part that may be used, now or over hours. */
export function freeProcessors({ processors, load }: BalanceHost, targetUse: number): number {
  return targetUse * processors - Math.max(load.cpus, load.meanCpus);
}

/** Processors that a VM may want: what it wants now, or over hours and a deviation. */
export const mayWant = ({ cpus, meanCpus, varianceCpus }: ProcessorLoad): number =>
  Math.max(cpus, meanCpus + Math.sqrt(varianceCpus));

/** Whether the host's processors may not be enough over hours, as the spread of what its VMs want says. */
function mayStarve(vm: ProcessorLoad, { load, processors }: BalanceHost, { deviations }: BalancePolicy): boolean {
  const spread = Math.sqrt(load.varianceCpus + vm.varianceCpus);
  return load.meanCpus + vm.meanCpus + deviations * spread > processors;
}

/** Whether the host may take the VM at all, without what it costs: null, or the first test that it fails. */
export function offerFilterOf(
  vm: BalanceVm,
  source: BalanceHost,
  target: BalanceHost,
  { policy, members }: Pick<OfferContext, 'policy' | 'members'>,
): OfferFilter | null {
  const filter = failedTargetFilter(vm, source, target);
  if (filter !== null) return filter;
  if (!target.balance) return 'leftOut';
  if (target.draining) return 'draining';
  if (breaksPromise(vm, target)) return 'promise';
  if (freeProcessors(target, policy.targetUse) < mayWant(vm.load) || mayStarve(vm.load, target, policy)) return 'processors';
  const constraint = checkConstraints(vm, target, members);
  return constraint.kind === 'refused' ? constraint.filter : null;
}

const unmetAt = (vm: BalanceVm, host: BalanceHost, members: GroupMembers): number => {
  const answer = checkConstraints(vm, host, members);
  return answer.kind === 'allowed' ? answer.unmet : 0;
};

/**
 * What the move of a VM to a host that may take it is predicted to gain and to cost.
 * @param stressS how much longer the source's stress is expected to last; 0: it has none
 */
export function offerMove(
  vm: BalanceVm,
  source: BalanceHost,
  target: BalanceHost,
  stressS: number,
  context: OfferContext,
): MoveOffer {
  const { policy, members, nowMs } = context;
  const staysS = Math.min(policy.horizonS, remainingS(vm, nowMs));
  const cost = moveCost(vm, source, target, context);
  // Until it has moved, nothing is gained.
  const gain = predictGain(vm, source, target, Math.max(0, stressS - cost.seconds), Math.max(0, staysS - cost.seconds));
  const unmet = unmetAt(vm, target, members) - unmetAt(vm, source, members);
  const gainCpuS = gain.duringStressCpuS + gain.laterCpuS - (unmet * policy.unmetCpuSPerH * staysS) / 3600;
  return {
    vm: vm.id,
    from: source.id,
    to: target.id,
    gain,
    cost,
    unmet,
    netCpuS: gainCpuS - cost.cpuS,
    worthwhile:
      cost.converges &&
      stressS >= policy.outlasts * cost.seconds &&
      gainCpuS >= Math.max(policy.leastGainS * source.processors, policy.margin * cost.cpuS),
    staysS,
    useAfter: {
      from: useOf(removeLoad(source.load, vm.load), source.processors),
      to: useOf(addLoad(target.load, vm.load), target.processors),
    },
  };
}

/** The better offer first; the same order every time. */
export function compareOffers(a: MoveOffer, b: MoveOffer): number {
  return (
    Number(b.worthwhile) - Number(a.worthwhile) ||
    b.netCpuS - a.netCpuS ||
    (a.vm < b.vm ? -1 : a.vm > b.vm ? 1 : a.to < b.to ? -1 : a.to > b.to ? 1 : 0)
  );
}
