import type { ClassifiedVms } from './classify-vms.ts';
import type { DrainPlanInput, DrainVm, PlannedMode, PlannedMove } from './drain-input.ts';
import { type MigrationOperation, operationsOf } from './migration-operations.ts';
import { type Prediction, sumPredictions, upperBound } from './regression.ts';

/**
 * `overheadS`: from the decision to the first move, and from the end of the last one to the check that the host is empty.
 * `gapS`: from the commit of one move, where its measurement ends, to the start of the next in its stream.
 */
const overheadS: Prediction = { mean: 0.5, spread: 0.3, dof: 10 };
const gapS: Prediction = { mean: 0.2, spread: 0.1, dof: 10 };
/**
 * A missing image takes the same network as a live migration, and is written, read again for its digest and synced, which
 * guests that keep the processors busy slow down further: 3 s to 27 s for the same 321 MiB between emulated hosts. `part` is
 * the uncertainty of that time. Its size costs nothing: the fetch begins with the acceptance, and does not count once it is
 * over.
 */
const imageFetch = { bandwidthPart: 1 / 3, part: 1, leastS: 1, dof: 5 } as const;

export interface MoveSchedule {
  moves: PlannedMove[];
  suspensions: { vm: string; meanS: number }[];
  concurrency: number;
  meanS: number;
  boundS: number;
}

/**
 * The longest move first, each in the stream that is free first: at most a third longer than the optimum (Graham, 1969).
 * VMs that are suspended in place follow the moves, so that they are suspended for as short as possible.
 */
export function scheduleMoves(input: DrainPlanInput, classified: ClassifiedVms, concurrency: number): MoveSchedule {
  const { host, model, confidence, nowMs } = input;
  const streamCount = Math.max(
    1,
    Math.min(concurrency, classified.moves.length + classified.suspensions.length + classified.moving.length),
  );
  const targets = [...classified.moves.map(({ to }) => to), ...classified.moving.map(targetOf)];
  /** On its target it shares the network with the moves of other streams to that host. */
  const arrivingAt = (to: string): number => {
    const others = targets.length - 1;
    const sameTarget = targets.filter((target) => target === to).length - 1;
    return others === 0 ? 1 : 1 + ((streamCount - 1) * sameTarget) / others;
  };
  const operations = (vm: DrainVm, to: string, mode: PlannedMode): MigrationOperation[] => {
    const move = { from: host, to, load: vm.load, concurrency: streamCount };
    // A cold migration copies the disks with the memory.
    const disks: MigrationOperation[] = vm.disks == null || mode === 'cold' ? [] : [{ ...move, kind: 'disks' }];
    const all = [...(mode === 'disks' ? [] : operationsOf(mode, move, vm.suspended === true || vm.ended === true)), ...disks];
    return all.map((one) => (one.from === host ? one : { ...one, concurrency: arrivingAt(to) }));
  };
  const suspend = ({ load, suspended }: DrainVm): MigrationOperation[] =>
    suspended === true ? [] : [{ kind: 'suspend', from: host, to: host, load, concurrency: streamCount }];
  const streams = Array.from({ length: streamCount }, () => ({
    operations: [] as MigrationOperation[],
    meanS: 0,
    elapsedS: 0,
    vms: 0,
  }));
  const leastLoaded = () => streams.reduce((a, b) => (b.meanS < a.meanS ? b : a));
  for (const vm of classified.moving) {
    if (vm.phase.kind !== 'moving' && vm.phase.kind !== 'suspending') continue;
    const stream = leastLoaded();
    const operationsLeft = vm.phase.kind === 'suspending' ? suspend(vm) : operations(vm, vm.phase.to ?? host, vm.phase.mode);
    const { mean } = model.predict(operationsLeft);
    const elapsedS = Math.min((nowMs - vm.phase.sinceMs) / 1000, mean);
    stream.operations.push(...operationsLeft);
    stream.vms += 1;
    stream.elapsedS += elapsedS;
    stream.meanS += mean - elapsedS;
  }
  const append = (added: MigrationOperation[]): number => {
    const { mean } = model.predict(added);
    const stream = leastLoaded();
    stream.operations.push(...added);
    stream.vms += 1;
    stream.meanS += mean;
    return mean;
  };
  const moves = classified.moves.map(({ vm, to, mode }) => {
    const meanS = append(operations(vm, to, mode));
    const recoveryS = mode === 'disks' || vm.suspended === true || vm.ended === true ? null : model.recoveryS(vm.id);
    return { vm: vm.id, to, mode, withDisks: vm.disks != null, meanS, recoveryS };
  });
  const suspensions = classified.suspensions.map((vm) => ({ vm: vm.id, meanS: append(suspend(vm)) }));
  if (streams.every((stream) => stream.vms === 0)) return { moves, suspensions, concurrency, meanS: 0, boundS: 0 };
  const fetches = predictImageFetches(input, classified.moves);
  // All streams must end in time: each gets its share of the allowed probability of failure.
  const streamConfidence = 1 - (1 - confidence) / streamCount;
  const ends = streams.map((stream) => {
    const pauses = Array.from({ length: Math.max(0, stream.vms - 1) }, () => gapS);
    const all = sumPredictions([model.predict(stream.operations), overheadS, ...pauses, ...fetches]);
    return { meanS: all.mean - stream.elapsedS, boundS: upperBound(all, streamConfidence) - stream.elapsedS };
  });
  return {
    moves,
    suspensions,
    concurrency,
    meanS: Math.max(...ends.map(({ meanS }) => meanS)),
    boundS: Math.max(...ends.map(({ boundS }) => boundS)),
  };
}

const targetOf = ({ phase }: DrainVm): string | null => (phase.kind === 'moving' ? phase.to : null);

/** The images that the targets lack, each once: a move begins after its image has arrived. */
function predictImageFetches({ host, model }: DrainPlanInput, moves: ClassifiedVms['moves']): Prediction[] {
  const missing = new Map<string, number>();
  for (const { vm, to } of moves) {
    const { image } = vm;
    if (image != null && !image.at.includes(to))
      missing.set(`${image.id} ${to}`, image.mib / (imageFetch.bandwidthPart * model.bandwidth('live', host, to)));
  }
  if (missing.size === 0) return [];
  const mean = imageFetch.leastS + [...missing.values()].reduce((sum, seconds) => sum + seconds, 0);
  return [{ mean, spread: mean * imageFetch.part, dof: imageFetch.dof }];
}
