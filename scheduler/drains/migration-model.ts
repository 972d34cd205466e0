import { convergencePolicy } from '../../model/migration.ts';
import { median } from '../statistics.ts';
import { estimatePreCopy, type PreCopyEstimate } from './pre-copy.ts';
import {
  crossValidate,
  type DataPoint,
  downweightOutliers,
  type Prediction,
  type Prior,
  type Regression,
  regress,
  sumPredictions,
  type Term,
} from './regression.ts';

/**
 * `live` is one operation; a cold migration is suspend, copy and resume, one after the other; `disks` are what follows a VM
 * that has moved live, or moves alone.
 */
export const operationKinds = ['live', 'suspend', 'copy', 'resume', 'disks'] as const;
export type OperationKind = (typeof operationKinds)[number];
export const moveModes = ['live', 'cold'] as const;
export type MoveMode = (typeof moveModes)[number];

/** What is known of a VM before it moves. */
export interface Load {
  vm: string;
  memoryMiB: number;
  /** What the hypervisor's process holds of the machine; null: never looked at. */
  residentMiB: number | null;
  /** Distinct memory that the guest writes in a second; null: never measured. */
  dirtyMiBPerS: number | null;
  /** What its disks may grow to; nothing of it is needed where they stay. */
  diskMiB?: number;
}

/** One operation to come. For suspend and resume, `from` and `to` are the same. */
export interface MigrationOperation {
  kind: OperationKind;
  from: string;
  to: string;
  load: Load;
  /** Operations that share the hosts with it, itself included, on average over its time. */
  concurrency: number;
}

/** One that was measured. */
export interface MigrationSample extends MigrationOperation {
  atMs: number;
  /** All of it, as whoever waits for it sees it, and the part in which bytes flowed. */
  seconds: number;
  transferS: number;
  bytes: number;
  /** Until its VM was as busy as before it; null: nobody saw. */
  recoveryS?: number | null;
}

export interface MigrationModel {
  /** Samples that it has learned from, by kind. */
  counts: Record<OperationKind, number>;
  /** The form that cross-validation chose, and its mean error in it; null where there is no data. */
  chosen: Record<OperationKind, { form: string; error: number | null }>;
  predict(operations: readonly MigrationOperation[]): Prediction;
  preCopy(operation: MigrationOperation): PreCopyEstimate;
  /** MiB/s of one pair of hosts with nothing else under way. */
  bandwidth(kind: OperationKind, from: string, to: string): number;
  /** How long a VM usually takes behind a move until it is as busy as before; that of all where its own isn't known; null: unknown. */
  recoveryS(vm: string): number | null;
}

/** How many samples of a kind are kept in mind, and after how many more one counts half. */
const trainingWindow = { samples: 80, halfLife: 10 } as const;
/** From so many on, forms other than the plain one are tried; fewer can't tell them apart. */
const minSamplesForForms = 6;
/** A form with more coefficients has to be better by so much. */
const requiredErrorRatio = 0.9;

/** MiB/s before anything was measured: what emulated hosts were seen to do. */
const priorBandwidth: Record<OperationKind, number> = { live: 60, copy: 80, suspend: 150, resume: 150, disks: 60 };
/** The part of a machine's memory that is carried over, and of what its disks may grow to: they are sparse. */
const priorFraction = { memory: 0.6, disks: 0.1 } as const;
/** Of a guest that nobody has looked at. */
const priorDirtyMiBPerS = 2;
/** How far two samples of what one guest writes may be apart though it does the same. */
const dirtyRateTolerance = { times: 2, leastMiBPerS: 2 } as const;
/** Of the shortest copy seen, what is taken for work that doesn't depend on how much is sent; and what counts as a flow. */
const deltaCopy = { part: 0.8, leastMiB: 4 } as const;
/** How much of what was seen an estimate is the median of: the latest, as networks and guests change. */
const medianWindows = { bandwidths: 5, parts: 20, recoveries: 20 } as const;
/** A flow shorter than this says little about bandwidth. */
const minFlowS = 0.05;

/** What the features of an operation are made of: seconds of its flow alone, and with its share of the network. */
interface Flow {
  aloneS: number;
  sharedS: number;
  otherOperations: number;
}

interface ModelForm {
  name: string;
  features(flow: Flow): number[];
  prior: Prior;
}

const noisePrior = { noise: 0.35, strength: 3 } as const;
/** No operation is done sooner, whatever a line through few points says. */
const minOperationS = 0.05;
/** Seconds that do not depend on the flow. */
const fixedOverheadS: Record<OperationKind, number> = { live: 1.2, suspend: 0.4, copy: 1, resume: 1, disks: 1 };

function formsOf(kind: OperationKind): ModelForm[] {
  const constant = fixedOverheadS[kind];
  return [
    {
      name: 'linear',
      features: ({ sharedS: shared, otherOperations: crowd }) => [1, shared, crowd],
      prior: { mean: [constant, 1, 0.3], sd: [constant, 0.5, 0.5], ...noisePrior },
    },
    {
      // Where the processor and not the network is what they share.
      name: 'linear, unshared',
      features: ({ aloneS: alone, otherOperations: crowd }) => [1, alone, crowd, alone * crowd],
      prior: { mean: [constant, 1, 0.3, 0.5], sd: [constant, 0.5, 0.5, 0.5], ...noisePrior },
    },
    {
      // Copies onto a disk were seen to grow faster than their size (Zhao and Figueiredo, figure 4).
      name: 'polynomial',
      features: ({ sharedS: shared, otherOperations: crowd }) => [1, shared, crowd, shared ** 2 / 10],
      prior: { mean: [constant, 1, 0.3, 0], sd: [constant, 0.5, 0.5, 0.3], ...noisePrior },
    },
  ];
}

/** A copy to a host that keeps an older version of the VM, because it has been there, carries what has changed. */
type TransferKind = OperationKind | 'changes';

/** What was seen so far of bandwidths and of what is carried over: all that a prediction may use. */
class TransferHistory {
  readonly #bandwidth = new Map<string, number[]>();
  readonly #bytesOfVm = new Map<string, number>();
  readonly #fractions = new Map<TransferKind, number[]>();
  #leastCopyS = Number.POSITIVE_INFINITY;
  /** Hosts that a VM has left as files. */
  readonly #departed = new Set<string>();
  /** What live migrations carried, as a part of what the process held: shared and empty pages are not sent. */
  #fractionsOfResident: number[] = [];
  /** The most that a VM was seen to write before a move whose bytes are known: what it wrote meanwhile is among these. */
  readonly #dirtyOfVm = new Map<string, number>();

  record(sample: MigrationSample): void {
    const { kind, from, to, load } = sample;
    const mib = sample.bytes / 2 ** 20;
    const way = this.#hasPreviousVersion(sample) ? 'changes' : kind;
    if (kind === 'copy') this.#departed.add(`${load.vm} ${from}`);
    if (mib <= 0) return;
    if (kind === 'copy') this.#leastCopyS = Math.min(this.#leastCopyS, sample.transferS);
    // A copy is mostly the reading and comparing of what is there, however little of it is sent.
    const flowS = kind === 'copy' ? sample.transferS - deltaCopy.part * this.#leastCopyS : sample.transferS;
    if (flowS >= minFlowS && (kind !== 'copy' || mib >= deltaCopy.leastMiB))
      for (const key of bandwidthKeys(kind, from, to)) {
        const bandwidth = (mib / flowS) * Math.max(1, sample.concurrency);
        this.#bandwidth.set(key, appendBounded(this.#bandwidth.get(key), bandwidth, medianWindows.bandwidths));
      }
    this.#bytesOfVm.set(`${way} ${load.vm}`, mib);
    if (kind === 'live') {
      this.#dirtyOfVm.set(load.vm, Math.max(this.#dirtyOfVm.get(load.vm) ?? 0, load.dirtyMiBPerS ?? 0));
      if (load.residentMiB !== null)
        this.#fractionsOfResident = appendBounded(
          this.#fractionsOfResident,
          mib / Math.max(1, load.residentMiB),
          medianWindows.parts,
        );
    }
    const fraction = Math.min(1, mib / Math.max(1, sizeOf(kind, load)));
    this.#fractions.set(way, appendBounded(this.#fractions.get(way), fraction, medianWindows.parts));
  }

  #hasPreviousVersion({ kind, to, load }: MigrationOperation): boolean {
    return kind === 'copy' && this.#departed.has(`${load.vm} ${to}`);
  }

  /** Until one such copy was seen, it is expected to be like any other. */
  #transferKindOf(operation: MigrationOperation): TransferKind {
    return this.#hasPreviousVersion(operation) && this.#fractions.has('changes') ? 'changes' : operation.kind;
  }

  bandwidth(kind: OperationKind, from: string, to: string): number {
    for (const key of bandwidthKeys(kind, from, to)) {
      const seen = this.#bandwidth.get(key);
      if (seen !== undefined) return median(seen);
    }
    return priorBandwidth[kind];
  }

  /**
   * What is carried over of a machine at rest: what was, the last time; else the usual part of it. A copy is packed, so
   * what the process holds says nothing of it once others were seen.
   */
  transferredMiB(kind: OperationKind, load: Load, way: TransferKind = kind): number {
    const size = sizeOf(kind, load);
    const before = this.#bytesOfVm.get(`${way} ${load.vm}`);
    if (before !== undefined) return Math.min(before, size);
    const fractions = this.#fractions.get(way) ?? [];
    const prior = kind === 'disks' ? priorFraction.disks : priorFraction.memory;
    const usual = size * (fractions.length === 0 ? prior : median(fractions));
    const isSeen = kind === 'disks' || (kind === 'copy' && fractions.length > 0);
    if (load.residentMiB === null || isSeen) return usual;
    const part = kind === 'live' && this.#fractionsOfResident.length > 0 ? median(this.#fractionsOfResident) : 1;
    return Math.min(size, load.residentMiB * part);
  }

  /** What it writes beyond what it did before: of a VM that has moved live, what it carried then says the rest. */
  #additionalDirtyMiBPerS({ vm, dirtyMiBPerS }: Load): number {
    const before = this.#dirtyOfVm.get(vm);
    if (before === undefined) return dirtyMiBPerS ?? priorDirtyMiBPerS;
    return Math.max(0, (dirtyMiBPerS ?? 0) - dirtyRateTolerance.times * Math.max(dirtyRateTolerance.leastMiBPerS, before));
  }

  preCopy({ kind, from, to, load }: MigrationOperation, share: number): PreCopyEstimate {
    return estimatePreCopy({
      memoryMiB: this.transferredMiB('live', load),
      dirtyMiBPerS: this.#additionalDirtyMiBPerS(load),
      bandwidthMiBPerS: this.bandwidth(kind, from, to) / share,
      policy: convergencePolicy,
    });
  }

  flow(operation: MigrationOperation): Flow {
    const { kind, from, to, load } = operation;
    const share = Math.max(1, operation.concurrency);
    const crowd = share - 1;
    if (kind === 'live') {
      const alone = this.preCopy(operation, 1);
      const shared = this.preCopy(operation, share);
      return { aloneS: alone.seconds + alone.downtimeS, sharedS: shared.seconds + shared.downtimeS, otherOperations: crowd };
    }
    // What the guest writes while it is being saved is written as well: suspending grows with the dirty rate.
    const dirty = kind === 'suspend' ? (load.dirtyMiBPerS ?? priorDirtyMiBPerS) : 0;
    const carried = this.transferredMiB(kind, load, this.#transferKindOf(operation));
    const alone = (carried + dirty) / this.bandwidth(kind, from, to);
    return { aloneS: alone, sharedS: alone * share, otherOperations: crowd };
  }
}

function appendBounded<T>(seen: readonly T[] | undefined, value: T, most: number): T[] {
  return [...(seen ?? []), value].slice(-most);
}

/** The most that an operation of this kind could carry. */
const sizeOf = (kind: OperationKind, { memoryMiB, diskMiB }: Load): number => (kind === 'disks' ? (diskMiB ?? 0) : memoryMiB);

/** The pair's own figures, then those of its source, then the site's. */
function bandwidthKeys(kind: OperationKind, from: string, to: string): string[] {
  return [`${kind} ${from} ${to}`, `${kind} ${from}`, kind];
}

const scaleOf = (kind: OperationKind, flow: Flow): number => fixedOverheadS[kind] + flow.sharedS;

interface FittedKind {
  form: ModelForm;
  regression: Regression;
  error: number | null;
}

/**
 * Learns from what was measured. Each sample is described by what was known before it, so that the interval holds what
 * an estimate of bandwidth or memory is off by, and not only the noise around it.
 */
export function fitMigrationModel(samples: readonly MigrationSample[]): MigrationModel {
  const experience = new TransferHistory();
  const recoveries: { vm: string; seconds: number }[] = [];
  const flows = new Map<OperationKind, { flow: Flow; seconds: number }[]>(operationKinds.map((kind) => [kind, []]));
  for (const sample of samples.toSorted((a, b) => a.atMs - b.atMs)) {
    flows.get(sample.kind)!.push({ flow: experience.flow(sample), seconds: sample.seconds });
    experience.record(sample);
    if (sample.recoveryS != null) recoveries.push({ vm: sample.load.vm, seconds: sample.recoveryS });
  }
  const learned = new Map(operationKinds.map((kind) => [kind, fitKind(kind, flows.get(kind)!.slice(-trainingWindow.samples))]));
  const of = (kind: OperationKind): FittedKind => learned.get(kind)!;
  const byKind = <T>(value: (kind: OperationKind) => T) =>
    Object.fromEntries(operationKinds.map((kind) => [kind, value(kind)])) as Record<OperationKind, T>;
  return {
    counts: byKind((kind) => flows.get(kind)!.length),
    chosen: byKind((kind) => ({ form: of(kind).form.name, error: of(kind).error })),
    bandwidth: (kind, from, to) => experience.bandwidth(kind, from, to),
    recoveryS(vm) {
      const own = recoveries.filter((one) => one.vm === vm);
      const seen = (own.length > 0 ? own : recoveries).slice(-medianWindows.recoveries);
      return seen.length === 0 ? null : median(seen.map(({ seconds }) => seconds));
    },
    preCopy: (operation) => experience.preCopy(operation, Math.max(1, operation.concurrency)),
    predict(operations) {
      const parts: Prediction[] = [];
      for (const kind of operationKinds) {
        const flowsHere = operations.filter((one) => one.kind === kind).map((one) => experience.flow(one));
        if (flowsHere.length === 0) continue;
        const { form, regression } = of(kind);
        const terms = flowsHere.map((flow): Term => ({ x: form.features(flow), scale: scaleOf(kind, flow) }));
        const part = regression.predict(terms);
        // A line through few points may fall below what no network can do.
        const least = flowsHere.reduce((sum, { aloneS: alone }) => sum + minOperationS + alone / 4, 0);
        parts.push({ ...part, mean: Math.max(part.mean, least) });
      }
      return sumPredictions(parts);
    },
  };
}

function fitKind(kind: OperationKind, seen: readonly { flow: Flow; seconds: number }[]): FittedKind {
  const candidates = formsOf(kind).map((form) => {
    const observations = seen.map(
      ({ flow, seconds }, i): DataPoint => ({
        x: form.features(flow),
        y: seconds,
        scale: scaleOf(kind, flow),
        weight: 0.5 ** ((seen.length - 1 - i) / trainingWindow.halfLife),
      }),
    );
    return { form, observations };
  });
  const [plain, ...others] = candidates;
  if (plain === undefined) throw new Error('BUG: a kind of operation without a form');
  let best = { ...plain, error: seen.length === 0 ? null : crossValidate(plain.observations, plain.form.prior) };
  if (best.error !== null && seen.length >= minSamplesForForms)
    for (const other of others) {
      const error = crossValidate(other.observations, other.form.prior);
      if (error < best.error! * requiredErrorRatio) best = { ...other, error };
    }
  const { form, observations, error } = best;
  return { form, regression: regress(downweightOutliers(observations, form.prior), form.prior), error };
}

/** The operations that make up one move. @param suspended it is suspended, and stays that: its files are carried, and no more */
export function operationsOf(mode: MoveMode, move: Omit<MigrationOperation, 'kind'>, suspended = false): MigrationOperation[] {
  if (mode === 'live') return [{ ...move, kind: 'live' }];
  if (suspended) return [{ ...move, kind: 'copy' }];
  const { from, to } = move;
  return [
    { ...move, kind: 'suspend', to: from },
    { ...move, kind: 'copy' },
    { ...move, kind: 'resume', from: to },
  ];
}
