import type { DrainStrategy, SuspendInPlace } from '../../model/drain.ts';
import {
  chooseTarget,
  type DiskDemand,
  diskNeededMiB,
  migrationLimits,
  type TargetFilter,
  type TargetHost,
} from '../migration-target.ts';
import { type Load, type MigrationModel, type MigrationOperation, type MoveMode, operationsOf } from './migration-model.ts';
import { type Prediction, sumPredictions, upperBound } from './regression.ts';

/** What a drain has to know of one VM of its host. */
export interface DrainVm {
  id: string;
  vcpus: number;
  memoryMiB: number;
  load: Load;
  /** It is suspended: it takes neither processors nor memory, and can only be moved cold. */
  suspended?: boolean;
  /** What its disk stands on, and the hosts that have that; null: on nothing. */
  image?: { id: string; mib: number; at: readonly string[] } | null;
  /** Where its disks are to leave the host that is drained; null: they may stay where they are. */
  disks?: { diskMiB: number; runsAt: string } | null;
  /**
   * `movable` now; `moving` already, which this drain or somebody else asked for; `suspending`, which this drain did;
   * `settling`: it is being made, or its host is about to be left in another way; `fixed`: it can't be moved as it is,
   * and `why` says so.
   */
  phase:
    | { kind: 'movable' }
    | { kind: 'moving'; sinceMs: number; to: string | null; mode: PlannedMode }
    | { kind: 'suspending'; sinceMs: number }
    | { kind: 'settling'; why: string }
    | { kind: 'fixed'; why: string };
  /** When it is gone at the latest, because its lease or its command's time ends; null: it stays until it is told. */
  endsByMs: number | null;
  /** Why it can't be suspended where it is; null: it can, or lies suspended there already. */
  cannotSuspendReason: string | null;
  /** Targets at which it failed during this drain, and what they said. */
  failed: { to: string; why: string; converges: boolean }[];
}

/** A host that VMs may go to. That it lacks an image is no obstacle: the drain brings it there first. */
export type DrainTarget = Omit<TargetHost, 'hasImage' | 'arriving' | 'leaving'> & {
  /** VMs that this drain has brought there so far. */
  given: number;
};

export interface DrainPlanInput {
  nowMs: number;
  deadlineMs: number;
  host: string;
  strategy: DrainStrategy;
  /** With which the host is to be empty by the deadline, e.g. 0.99. */
  confidence: number;
  /** Those that have to leave: who lies suspended there for this drain is none of them. */
  vms: readonly DrainVm[];
  hosts: readonly DrainTarget[];
  suspendInPlace: SuspendInPlace;
  modes: readonly MoveMode[];
  model: MigrationModel;
}

/** `disks`: of a VM that runs elsewhere already. */
export type PlannedMode = MoveMode | 'disks';

export interface PlannedMove {
  vm: string;
  to: string;
  mode: PlannedMode;
  /** Its disks go where it goes. */
  withDisks: boolean;
  meanS: number;
  /** Until it is as busy as before, behind its move; no part of the drain's time. null: not known, or it isn't disturbed. */
  recoveryS: number | null;
}

export interface DrainPlan {
  strategy: 'sequential' | 'parallel';
  /** In the order in which they begin. */
  moves: PlannedMove[];
  /** VMs that no host can take, to be suspended where they are: behind the moves, and from `suspendByMs` on in any case. */
  suspensions: { vm: string; meanS: number }[];
  suspendByMs: number;
  /** How many at a time. */
  concurrency: number;
  leaving: { vm: string; byMs: number | null }[];
  blockers: { vm: string; why: string }[];
  meanS: number;
  boundS: number;
  /** The latest start that meets the deadline in good time with the confidence asked for; may have passed. */
  startMs: number;
  /** When the host is empty, as expected and with that confidence, if the moves start at `startMs`; null with blockers. */
  expectedMs: number | null;
  emptyByMs: number | null;
  /** The earliest deadline that could be promised now; null with blockers that nothing is known to end. */
  earliestMs: number | null;
}

/**
 * From the decision to the first move, and from the last one's end to the proof that the host is empty; and from the
 * commit of one move, which is as far as moves are measured, to the beginning of the next in its lane.
 */
const overheadS: Prediction = { mean: 0.5, spread: 0.3, dof: 10 };
const gapS: Prediction = { mean: 0.2, spread: 0.1, dof: 10 };
/**
 * The moves begin so much sooner than their bound asks for: what is foreseen of guests that were just looked at may have grown
 * by the start, and one timer that comes late is no reason to be late.
 */
export const startMarginS = 1;
/** An image that a target lacks is fetched at once, over the same network: how far off that may be, as a part of it. */
const imageFetchUncertainty = { part: 0.5, leastS: 1, dof: 5 } as const;
/** A VM whose time ends is removed after it: its saga takes so long, at most, and a removal is quick. */
const maxRemovalMs = 20_000;

/**
 * How to empty a host by a deadline, and when to begin. Largest VMs first, each to the target that has been given the
 * fewest; of equals, to the one with the most free memory. One at a time, unless that is too late.
 */
export function planDrain(input: DrainPlanInput): DrainPlan {
  const { nowMs, deadlineMs, strategy } = input;
  const classified = classifyVms(input);
  const sequential = scheduleMoves(input, classified, 1);
  const parallel = scheduleMoves(input, classified, migrationLimits.leaving);
  const inTime = (one: MoveSchedule) => nowMs + one.boundS * 1000 <= deadlineMs;
  const useParallel =
    strategy === 'parallel' || (strategy === 'auto' && !inTime(sequential) && parallel.boundS < sequential.boundS);
  const chosen = useParallel ? parallel : sequential;
  const latestStartMs = ({ boundS }: MoveSchedule) => deadlineMs - (boundS + startMarginS) * 1000;
  const startMs = Math.max(nowMs, latestStartMs(chosen));
  const suspensionsOnly = scheduleMoves(input, { ...classified, moves: [] }, chosen.concurrency);
  const lastMs = Math.max(0, ...classified.leaving.map(({ byMs }) => byMs ?? 0), ...classified.waitsMs);
  const blocked = classified.blockers.length > 0;
  const isNothingToMove = chosen.moves.length === 0 && chosen.suspensions.length === 0 && classified.moving.length === 0;
  const end = (seconds: number) => Math.max(isNothingToMove ? nowMs : startMs + seconds * 1000, lastMs);
  const ends = blocked && classified.blockersEndMs === null;
  return {
    ...chosen,
    strategy: useParallel ? 'parallel' : 'sequential',
    suspendByMs: Math.max(startMs, latestStartMs(suspensionsOnly)),
    leaving: classified.leaving,
    blockers: classified.blockers,
    startMs,
    expectedMs: blocked ? null : end(chosen.meanS),
    emptyByMs: blocked ? null : end(chosen.boundS),
    earliestMs: ends
      ? null
      : Math.max(
          nowMs + (isNothingToMove ? 0 : fasterSchedule(input, sequential, parallel).boundS + startMarginS) * 1000,
          lastMs,
          classified.blockersEndMs ?? 0,
        ),
  };
}

function fasterSchedule({ strategy }: DrainPlanInput, sequential: MoveSchedule, parallel: MoveSchedule): MoveSchedule {
  if (strategy === 'sequential') return sequential;
  return strategy === 'parallel' || parallel.boundS < sequential.boundS ? parallel : sequential;
}

interface ClassifiedVms {
  moves: { vm: DrainVm; to: string; mode: PlannedMode }[];
  suspensions: DrainVm[];
  leaving: DrainPlan['leaving'];
  blockers: DrainPlan['blockers'];
  /** When what stands in the way ends by itself; null: at least one of them never does, or nothing stands in the way. */
  blockersEndMs: number | null;
  waitsMs: number[];
  /** Those that move already, or are being suspended. */
  moving: DrainVm[];
}

/** Who has to go where, who goes by itself, and who is in the way. */
function classifyVms(question: DrainPlanInput): ClassifiedVms {
  const { deadlineMs, vms } = question;
  const sorted: ClassifiedVms = {
    moves: [],
    suspensions: [],
    leaving: [],
    blockers: [],
    blockersEndMs: null,
    waitsMs: [],
    moving: [],
  };
  const targets = new TargetCapacity(question);
  const blockedEnds: (number | null)[] = [];
  const block = (vm: DrainVm, why: string) => {
    sorted.blockers.push({ vm: vm.id, why });
    blockedEnds.push(vm.endsByMs === null ? null : vm.endsByMs + maxRemovalMs);
  };
  const suspendOrBlock = (vm: DrainVm, why: string) => {
    if (question.suspendInPlace === 'never') return block(vm, why);
    const reason = vm.cannotSuspendReason ?? targets.reserveMemoryFile(vm);
    if (reason === null) sorted.suspensions.push(vm);
    else block(vm, `${why}; and it can't be suspended there: ${reason}`);
  };
  for (const vm of [...vms].sort((a, b) => b.memoryMiB - a.memoryMiB || (a.id < b.id ? -1 : 1))) {
    if (vm.phase.kind === 'moving' || vm.phase.kind === 'suspending') sorted.moving.push(vm);
    else if (vm.endsByMs !== null && vm.endsByMs + maxRemovalMs <= deadlineMs)
      sorted.leaving.push({ vm: vm.id, byMs: vm.endsByMs + maxRemovalMs });
    else if (vm.phase.kind === 'fixed') block(vm, vm.phase.why);
    else if (vm.phase.kind === 'settling') sorted.leaving.push({ vm: vm.id, byMs: null });
    else if (vm.suspended === true && !question.modes.includes('cold'))
      suspendOrBlock(vm, 'it is suspended, and this drain moves VMs live alone');
    else {
      const found = targets.assignTarget(vm);
      if ('why' in found) suspendOrBlock(vm, found.why);
      else sorted.moves.push({ vm, ...found });
    }
  }
  if (blockedEnds.length > 0 && !blockedEnds.includes(null)) sorted.blockersEndMs = Math.max(...(blockedEnds as number[]));
  return sorted;
}

/** The targets as they fill. */
class TargetCapacity {
  readonly #question: DrainPlanInput;
  readonly #hosts: DrainTarget[];

  constructor(question: DrainPlanInput) {
    this.#question = question;
    this.#hosts = question.hosts.map((host) => ({ ...host, used: { ...host.used } }));
    // What is on its way to a host counts as given to it.
    for (const vm of question.vms) {
      const { phase } = vm;
      const host = phase.kind === 'moving' ? this.#hosts.find(({ id }) => id === phase.to) : undefined;
      if (host !== undefined) host.given += 1;
    }
  }

  assignTarget(vm: DrainVm): { to: string; mode: PlannedMode } | { why: string } {
    const { host } = this.#question;
    const runsAt = isDiskMoveOnly(vm, host) ? vm.disks?.runsAt : undefined;
    const refused: string[] = [];
    const fit = this.#hosts.filter((candidate) => {
      if (candidate.id === host || (runsAt !== undefined && candidate.id !== runsAt)) return false;
      const why = this.#refusalOf(vm, candidate);
      if (why !== null) refused.push(`${candidate.id}: ${why}`);
      return why === null;
    });
    const free = ({ capacity, used }: DrainTarget) => capacity.memoryMiB - used.memoryMiB;
    const tries = (candidate: DrainTarget) => vm.failed.filter(({ to }) => to === candidate.id).length;
    // Where it failed, it is tried again only when it was tried everywhere else.
    const [best] = fit.sort((a, b) => tries(a) - tries(b) || a.given - b.given || free(b) - free(a) || (a.id < b.id ? -1 : 1));
    if (best === undefined)
      return { why: refused.length === 0 ? 'there is no other host' : `no host can take it (${refused.join(', ')})` };
    const taken = this.#demandOf(vm);
    best.used.vcpus += taken.vcpus;
    best.used.memoryMiB += taken.memoryMiB;
    best.freeDiskMiB = (best.freeDiskMiB ?? 0) - diskNeededMiB(taken.disk, best.id);
    if (runsAt !== undefined) return { to: runsAt, mode: 'disks' };
    best.given += 1;
    return { to: best.id, mode: this.#chooseMode(vm, best.id) };
  }

  /** A file for its memory, on the disk of the host that is drained. @returns why not; null: it has room */
  reserveMemoryFile(vm: DrainVm): string | null {
    const needed = vm.suspended === true ? 0 : vm.memoryMiB;
    const source = this.#source();
    if ((source.freeDiskMiB ?? 0) < needed) return `its memory takes ${needed} MiB of a disk with ${source.freeDiskMiB ?? 0}`;
    source.freeDiskMiB = (source.freeDiskMiB ?? 0) - needed;
    return null;
  }

  #source(): DrainTarget {
    const { host } = this.#question;
    const source = this.#hosts.find(({ id }) => id === host);
    if (source === undefined) throw new Error(`BUG: ${host}, which is to be drained, is no host`);
    return source;
  }

  #refusalOf(vm: DrainVm, candidate: DrainTarget): TargetFilter | string | null {
    const { host } = this.#question;
    const failures = vm.failed.filter(({ to }) => to === candidate.id);
    if (failures.length >= maxTriesPerTarget) return failures.at(-1)!.why;
    const atRest = (one: DrainTarget): TargetHost => ({ ...one, hasImage: true, arriving: 0, leaving: 0 });
    const moving = { host, ...this.#demandOf(vm), to: candidate.id };
    const choice = chooseTarget(moving, [atRest(this.#source()), atRest(candidate)]);
    return choice.kind === 'none' ? (choice.refused[0]?.filter ?? 'refused') : null;
  }

  /** What it takes of a target: where it may go as files, also room for its memory on the disk. */
  #demandOf(vm: DrainVm): { vcpus: number; memoryMiB: number; disk: DiskDemand } {
    const { host, modes } = this.#question;
    const isLeft = isDiskMoveOnly(vm, host);
    const asFile = modes.includes('cold') && !isLeft ? vm.memoryMiB : 0;
    const disk = { homeHost: vm.disks == null ? null : host, diskMiB: vm.disks?.diskMiB ?? 0, memoryMiB: asFile };
    return vm.suspended === true || isLeft
      ? { vcpus: 0, memoryMiB: 0, disk }
      : { vcpus: vm.vcpus, memoryMiB: vm.memoryMiB, disk };
  }

  /**
   * Live where that is expected to end, and has not come to no end already; else with the VM suspended on the way. Where
   * that can't be done, live all the same: it is given up after its deadline, which is what is counted on.
   */
  #chooseMode(vm: DrainVm, to: string): MoveMode {
    const { host, modes, model } = this.#question;
    if (vm.suspended === true || !modes.includes('live')) return 'cold';
    if (!modes.includes('cold')) return 'live';
    const live: MigrationOperation = { kind: 'live', from: host, to, load: vm.load, concurrency: 1 };
    return vm.failed.every(({ converges }) => converges) && model.preCopy(live).converges ? 'live' : 'cold';
  }
}

/** Its disks are on the host that is drained, and it runs elsewhere. */
const isDiskMoveOnly = ({ disks }: DrainVm, host: string): boolean => disks != null && disks.runsAt !== host;

/** How often a VM is sent to the same target. */
const maxTriesPerTarget = 2;

interface MoveSchedule {
  moves: PlannedMove[];
  suspensions: DrainPlan['suspensions'];
  concurrency: number;
  meanS: number;
  boundS: number;
}

/**
 * The longest first, each in the lane that is free first: at most a third longer than the best (Graham, 1969). Behind the
 * moves those that are suspended in place, which is the shorter the later it is.
 */
function scheduleMoves(question: DrainPlanInput, sorted: ClassifiedVms, concurrency: number): MoveSchedule {
  const { host, model, confidence, nowMs } = question;
  const streamCount = Math.max(1, Math.min(concurrency, sorted.moves.length + sorted.suspensions.length + sorted.moving.length));
  const targets = [...sorted.moves.map(({ to }) => to), ...sorted.moving.map(targetOf)];
  /** Where it is going, it shares the host with those of the other lanes that go there as well. */
  const arrivingAt = (to: string): number => {
    const [others, there] = [targets.length - 1, targets.filter((target) => target === to).length - 1];
    return others === 0 ? 1 : 1 + ((streamCount - 1) * there) / others;
  };
  const operations = (vm: DrainVm, to: string, mode: PlannedMode): MigrationOperation[] => {
    const move = { from: host, to, load: vm.load, concurrency: streamCount };
    // As files, they are copied with the memory.
    const disks: MigrationOperation[] = vm.disks == null || mode === 'cold' ? [] : [{ ...move, kind: 'disks' }];
    const all = [...(mode === 'disks' ? [] : operationsOf(mode, move, vm.suspended)), ...disks];
    return all.map((one) => (one.from === host ? one : { ...one, concurrency: arrivingAt(to) }));
  };
  const suspend = ({ load, suspended: asleep }: DrainVm): MigrationOperation[] =>
    asleep === true ? [] : [{ kind: 'suspend', from: host, to: host, load, concurrency: streamCount }];
  const streams = Array.from({ length: streamCount }, () => ({
    operations: [] as MigrationOperation[],
    meanS: 0,
    goneS: 0,
    vms: 0,
  }));
  const leastLoaded = () => streams.reduce((a, b) => (b.meanS < a.meanS ? b : a));
  for (const vm of sorted.moving) {
    if (vm.phase.kind !== 'moving' && vm.phase.kind !== 'suspending') continue;
    const lane = leastLoaded();
    const rest = vm.phase.kind === 'suspending' ? suspend(vm) : operations(vm, vm.phase.to ?? host, vm.phase.mode);
    const { mean } = model.predict(rest);
    const elapsedS = Math.min((nowMs - vm.phase.sinceMs) / 1000, mean);
    lane.operations.push(...rest);
    lane.vms += 1;
    lane.goneS += elapsedS;
    lane.meanS += mean - elapsedS;
  }
  const append = (these: MigrationOperation[]): number => {
    const { mean } = model.predict(these);
    const lane = leastLoaded();
    lane.operations.push(...these);
    lane.vms += 1;
    lane.meanS += mean;
    return mean;
  };
  const moves = sorted.moves.map(({ vm, to, mode }) => {
    const meanS = append(operations(vm, to, mode));
    const recoveryS = mode === 'disks' || vm.suspended === true ? null : model.recoveryS(vm.id);
    return { vm: vm.id, to, mode, withDisks: vm.disks != null, meanS, recoveryS };
  });
  const suspensions = sorted.suspensions.map((vm) => ({ vm: vm.id, meanS: append(suspend(vm)) }));
  if (streams.every((lane) => lane.vms === 0)) return { moves, suspensions, concurrency, meanS: 0, boundS: 0 };
  const fetches = predictImageFetches(question, sorted.moves);
  // All lanes have to be done: each with its part of the doubt.
  const streamConfidence = 1 - (1 - confidence) / streamCount;
  const ends = streams.map((lane) => {
    const pauses = Array.from({ length: Math.max(0, lane.vms - 1) }, () => gapS);
    const all = sumPredictions([model.predict(lane.operations), overheadS, ...pauses, ...fetches]);
    return { meanS: all.mean - lane.goneS, boundS: upperBound(all, streamConfidence) - lane.goneS };
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

/** The images that the targets lack, each once: nothing that needs one begins before it is there. */
function predictImageFetches({ host, model }: DrainPlanInput, moves: ClassifiedVms['moves']): Prediction[] {
  const missing = new Map<string, number>();
  for (const { vm, to } of moves) {
    const { image } = vm;
    if (image != null && !image.at.includes(to)) missing.set(`${image.id} ${to}`, image.mib / model.bandwidth('live', host, to));
  }
  if (missing.size === 0) return [];
  const mean = imageFetchUncertainty.leastS + [...missing.values()].reduce((sum, seconds) => sum + seconds, 0);
  return [{ mean, spread: mean * imageFetchUncertainty.part, dof: imageFetchUncertainty.dof }];
}
