import type { MigrationModel } from '../drains/migration-model.ts';
import { operationsOf } from '../drains/migration-operations.ts';
import type { PreCopyEstimate } from '../drains/pre-copy.ts';
import { type BalanceHost, type BalancePolicy, type BalanceVm, remainingS } from './site.ts';

/** What a move is predicted to take, and what all of it costs in processor-seconds, the unit of the gain. */
export interface MoveCost {
  seconds: number;
  downtimeS: number;
  sentMiB: number;
  /** False: the guest writes faster than the network sends. */
  converges: boolean;
  cpuS: number;
}

/**
 * What a second of a live migration takes. The guest's slow-down by tracking written pages is what Clark et al. (NSDI 2005)
 * measured of a web server, 12 %; a processor is busy with sending on one host and with receiving on the other.
 */
const perSecond = { slowDown: 0.12, hostCpus: 2 } as const;
/** A stopped guest costs more than the work it would have done: its clients wait. */
const downtimeFactor = 10;
/** Processor-seconds for a MiB over the network: disks that are opened over NFS. */
const networkCpuSPerMiB = 0.002;

/** Predicted migrations of a decision: between hosts of one bandwidth a VM's are the same. */
export type MigrationPredictions = Map<string, { seconds: number; preCopy: PreCopyEstimate }>;

interface CostContext {
  nowMs: number;
  policy: BalancePolicy;
  model: MigrationModel;
  predictions: MigrationPredictions;
}

function predictMigration(vm: BalanceVm, to: string, concurrency: number, { model, predictions }: CostContext) {
  const key = `${vm.id} ${concurrency} ${model.bandwidth('live', vm.host, to)}`;
  const known = predictions.get(key);
  if (known !== undefined) return known;
  const operations = operationsOf('live', { from: vm.host, to, load: vm.migration, concurrency });
  const predicted = { seconds: Math.max(0, model.predict(operations).mean), preCopy: model.preCopy(operations[0]!) };
  predictions.set(key, predicted);
  return predicted;
}

export function moveCost(vm: BalanceVm, source: BalanceHost, target: BalanceHost, context: CostContext): MoveCost {
  const { model, policy, nowMs } = context;
  const concurrency = 1 + Math.max(source.leaving, target.arriving);
  const predicted = predictMigration(vm, target.id, concurrency, context);
  const { preCopy } = predicted;
  const imageMiB = vm.image === null || target.images.has(vm.image.id) ? 0 : vm.image.mib;
  const imageS = imageMiB / model.bandwidth('copy', vm.host, target.id);
  const seconds = predicted.seconds + imageS;
  const moving = seconds * (perSecond.slowDown * vm.load.cpus + perSecond.hostCpus);
  const stopped = preCopy.downtimeS * downtimeFactor * Math.max(0.1, vm.load.cpus);
  const stays = Math.min(policy.horizonS, remainingS(vm, nowMs));
  // Its disks stay at home: a move home saves what a move away costs.
  const away = Number(vm.home !== target.id) - Number(vm.home !== vm.host);
  const overNetwork = away * vm.diskMiBPerS * stays * networkCpuSPerMiB;
  return {
    seconds,
    downtimeS: preCopy.downtimeS,
    sentMiB: preCopy.sentMiB + imageMiB,
    converges: preCopy.converges,
    cpuS: (moving + stopped + overNetwork) * (vm.keep ? policy.keepFactor : 1),
  };
}

/** A cheap estimate of the same, to choose of which VMs the cost is predicted: the memory is sent once. */
export function roughCostCpuS(vm: BalanceVm, bandwidthMiBPerS: number, { keepFactor }: BalancePolicy): number {
  const seconds = (vm.migration.residentMiB ?? vm.memoryMiB) / bandwidthMiBPerS;
  return seconds * (perSecond.slowDown * vm.load.cpus + perSecond.hostCpus) * (vm.keep ? keepFactor : 1);
}
