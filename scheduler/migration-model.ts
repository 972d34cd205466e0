import { convergencePolicy } from '../model/migration.ts';
import { type PreCopy, simulatePreCopy } from './pre-copy.ts';
import {
  crossValidate,
  downweighted,
  type Observation,
  type Prediction,
  type Prior,
  plus,
  type Regression,
  regress,
  type Term,
} from './regression.ts';
import { median } from './statistics.ts';

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
export interface Operation {
  kind: OperationKind;
  from: string;
  to: string;
  load: Load;
  /** Operations that share the hosts with it, itself included, on average over its time. */
  concurrency: number;
}

/** One that was measured. */
export interface Sample extends Operation {
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
  predict(operations: readonly Operation[]): Prediction;
  preCopy(operation: Operation): PreCopy;
  /** MiB/s of one pair of hosts with nothing else under way. */
  bandwidth(kind: OperationKind, from: string, to: string): number;
  /** How long a VM usually takes behind a move until it is as busy as before; that of all where its own isn't known; null: unknown. */
  recoveryS(vm: string): number | null;
}

/** How many samples of a kind are kept in mind, and after how many more one counts half. */
const memory = { samples: 80, halfLife: 10 } as const;
/** From so many on, forms other than the plain one are tried; fewer can't tell them apart. */
const leastForForms = 6;
/** A form with more coefficients has to be better by so much. */
const advantage = 0.9;

/** MiB/s before anything was measured: what emulated hosts were seen to do. */
const priorBandwidth: Record<OperationKind, number> = { live: 60, copy: 80, suspend: 150, resume: 150, disks: 60 };
/** The part of a machine's memory that is carried over, and of what its disks may grow to: they are sparse. */
const priorFraction = { memory: 0.6, disks: 0.1 } as const;
/** Of a guest that nobody has looked at. */
const priorDirtyMiBPerS = 2;
/** How far two samples of what one guest writes may be apart though it does the same. */
const sampling = { times: 2, leastMiBPerS: 2 } as const;
/** Of the shortest copy seen, what is taken for work that doesn't depend on how much is sent; and what counts as a flow. */
const comparing = { part: 0.8, leastMiB: 4 } as const;
/** How much of what was seen an estimate is the median of: the latest, as networks and guests change. */
const latest = { bandwidths: 5, parts: 20, recoveries: 20 } as const;
/** A flow shorter than this says little about bandwidth. */
const leastFlowS = 0.05;

/** What the features of an operation are made of: seconds of its flow alone, and with its share of the network. */
interface Flow {
  alone: number;
  shared: number;
  crowd: number;
}

interface Form {
  name: string;
  features(flow: Flow): number[];
  prior: Prior;
}

const noise = { noise: 0.35, strength: 3 } as const;
/** No operation is done sooner, whatever a line through few points says. */
const leastS = 0.05;
/** Seconds that do not depend on the flow. */
const overheadS: Record<OperationKind, number> = { live: 1.2, suspend: 0.4, copy: 1, resume: 1, disks: 1 };

function formsOf(kind: OperationKind): Form[] {
  const constant = overheadS[kind];
  return [
    {
      name: 'linear',
      features: ({ shared, crowd }) => [1, shared, crowd],
      prior: { mean: [constant, 1, 0.3], sd: [constant, 0.5, 0.5], ...noise },
    },
    {
      // Where the processor and not the network is what they share.
      name: 'linear, unshared',
      features: ({ alone, crowd }) => [1, alone, crowd, alone * crowd],
      prior: { mean: [constant, 1, 0.3, 0.5], sd: [constant, 0.5, 0.5, 0.5], ...noise },
    },
    {
      // Copies onto a disk were seen to grow faster than their size (Zhao and Figueiredo, figure 4).
      name: 'polynomial',
      features: ({ shared, crowd }) => [1, shared, crowd, shared ** 2 / 10],
      prior: { mean: [constant, 1, 0.3, 0], sd: [constant, 0.5, 0.5, 0.3], ...noise },
    },
  ];
}

/** A copy to a host that keeps an older version of the VM, because it has been there, carries what has changed. */
type Way = OperationKind | 'changes';

/** What was seen so far of bandwidths and of what is carried over: all that a prediction may use. */
class Experience {
  readonly #bandwidth = new Map<string, number[]>();
  readonly #bytesOfVm = new Map<string, number>();
  readonly #fractions = new Map<Way, number[]>();
  #leastCopyS = Number.POSITIVE_INFINITY;
  /** Hosts that a VM has left as files. */
  readonly #left = new Set<string>();
  /** What live migrations carried, as a part of what the process held: shared and empty pages are not sent. */
  #ofResident: number[] = [];
  /** The most that a VM was seen to write before a move whose bytes are known: what it wrote meanwhile is among these. */
  readonly #dirtyOfVm = new Map<string, number>();

  learn(sample: Sample): void {
    const { kind, from, to, load } = sample;
    const mib = sample.bytes / 2 ** 20;
    const way = this.#isKept(sample) ? 'changes' : kind;
    if (kind === 'copy') this.#left.add(`${load.vm} ${from}`);
    if (mib <= 0) return;
    if (kind === 'copy') this.#leastCopyS = Math.min(this.#leastCopyS, sample.transferS);
    // A copy is mostly the reading and comparing of what is there, however little of it is sent.
    const flowS = kind === 'copy' ? sample.transferS - comparing.part * this.#leastCopyS : sample.transferS;
    if (flowS >= leastFlowS && (kind !== 'copy' || mib >= comparing.leastMiB))
      for (const key of keys(kind, from, to)) {
        const bandwidth = (mib / flowS) * Math.max(1, sample.concurrency);
        this.#bandwidth.set(key, withLatest(this.#bandwidth.get(key), bandwidth, latest.bandwidths));
      }
    this.#bytesOfVm.set(`${way} ${load.vm}`, mib);
    if (kind === 'live') {
      this.#dirtyOfVm.set(load.vm, Math.max(this.#dirtyOfVm.get(load.vm) ?? 0, load.dirtyMiBPerS ?? 0));
      if (load.residentMiB !== null)
        this.#ofResident = withLatest(this.#ofResident, mib / Math.max(1, load.residentMiB), latest.parts);
    }
    const fraction = Math.min(1, mib / Math.max(1, sizeOf(kind, load)));
    this.#fractions.set(way, withLatest(this.#fractions.get(way), fraction, latest.parts));
  }

  #isKept({ kind, to, load }: Operation): boolean {
    return kind === 'copy' && this.#left.has(`${load.vm} ${to}`);
  }

  /** Until one such copy was seen, it is expected to be like any other. */
  #wayOf(operation: Operation): Way {
    return this.#isKept(operation) && this.#fractions.has('changes') ? 'changes' : operation.kind;
  }

  bandwidth(kind: OperationKind, from: string, to: string): number {
    for (const key of keys(kind, from, to)) {
      const seen = this.#bandwidth.get(key);
      if (seen !== undefined) return median(seen);
    }
    return priorBandwidth[kind];
  }

  /**
   * What is carried over of a machine at rest: what was, the last time; else the usual part of it. A copy is packed, so
   * what the process holds says nothing of it once others were seen.
   */
  carriedMiB(kind: OperationKind, load: Load, way: Way = kind): number {
    const size = sizeOf(kind, load);
    const before = this.#bytesOfVm.get(`${way} ${load.vm}`);
    if (before !== undefined) return Math.min(before, size);
    const fractions = this.#fractions.get(way) ?? [];
    const prior = kind === 'disks' ? priorFraction.disks : priorFraction.memory;
    const usual = size * (fractions.length === 0 ? prior : median(fractions));
    const isSeen = kind === 'disks' || (kind === 'copy' && fractions.length > 0);
    if (load.residentMiB === null || isSeen) return usual;
    const part = kind === 'live' && this.#ofResident.length > 0 ? median(this.#ofResident) : 1;
    return Math.min(size, load.residentMiB * part);
  }

  /** What it writes beyond what it did before: of a VM that has moved live, what it carried then says the rest. */
  #writesMore({ vm, dirtyMiBPerS }: Load): number {
    const before = this.#dirtyOfVm.get(vm);
    if (before === undefined) return dirtyMiBPerS ?? priorDirtyMiBPerS;
    return Math.max(0, (dirtyMiBPerS ?? 0) - sampling.times * Math.max(sampling.leastMiBPerS, before));
  }

  preCopy({ kind, from, to, load }: Operation, share: number): PreCopy {
    return simulatePreCopy({
      memoryMiB: this.carriedMiB('live', load),
      dirtyMiBPerS: this.#writesMore(load),
      bandwidthMiBPerS: this.bandwidth(kind, from, to) / share,
      policy: convergencePolicy,
    });
  }

  flow(operation: Operation): Flow {
    const { kind, from, to, load } = operation;
    const share = Math.max(1, operation.concurrency);
    const crowd = share - 1;
    if (kind === 'live') {
      const alone = this.preCopy(operation, 1);
      const shared = this.preCopy(operation, share);
      return { alone: alone.seconds + alone.downtimeS, shared: shared.seconds + shared.downtimeS, crowd };
    }
    // What the guest writes while it is being saved is written as well: suspending grows with the dirty rate.
    const dirty = kind === 'suspend' ? (load.dirtyMiBPerS ?? priorDirtyMiBPerS) : 0;
    const carried = this.carriedMiB(kind, load, this.#wayOf(operation));
    const alone = (carried + dirty) / this.bandwidth(kind, from, to);
    return { alone, shared: alone * share, crowd };
  }
}

function withLatest<T>(seen: readonly T[] | undefined, value: T, most: number): T[] {
  return [...(seen ?? []), value].slice(-most);
}

/** The most that an operation of this kind could carry. */
const sizeOf = (kind: OperationKind, { memoryMiB, diskMiB }: Load): number => (kind === 'disks' ? (diskMiB ?? 0) : memoryMiB);

/** The pair's own figures, then those of its source, then the site's. */
function keys(kind: OperationKind, from: string, to: string): string[] {
  return [`${kind} ${from} ${to}`, `${kind} ${from}`, kind];
}

const scaleOf = (kind: OperationKind, flow: Flow): number => overheadS[kind] + flow.shared;

interface Learned {
  form: Form;
  regression: Regression;
  error: number | null;
}

/**
 * Learns from what was measured. Each sample is described by what was known before it, so that the interval holds what
 * an estimate of bandwidth or memory is off by, and not only the noise around it.
 */
export function fitMigrationModel(samples: readonly Sample[]): MigrationModel {
  const experience = new Experience();
  const recoveries: { vm: string; seconds: number }[] = [];
  const flows = new Map<OperationKind, { flow: Flow; seconds: number }[]>(operationKinds.map((kind) => [kind, []]));
  for (const sample of samples.toSorted((a, b) => a.atMs - b.atMs)) {
    flows.get(sample.kind)!.push({ flow: experience.flow(sample), seconds: sample.seconds });
    experience.learn(sample);
    if (sample.recoveryS != null) recoveries.push({ vm: sample.load.vm, seconds: sample.recoveryS });
  }
  const learned = new Map(operationKinds.map((kind) => [kind, learn(kind, flows.get(kind)!.slice(-memory.samples))]));
  const of = (kind: OperationKind): Learned => learned.get(kind)!;
  const byKind = <T>(value: (kind: OperationKind) => T) =>
    Object.fromEntries(operationKinds.map((kind) => [kind, value(kind)])) as Record<OperationKind, T>;
  return {
    counts: byKind((kind) => flows.get(kind)!.length),
    chosen: byKind((kind) => ({ form: of(kind).form.name, error: of(kind).error })),
    bandwidth: (kind, from, to) => experience.bandwidth(kind, from, to),
    recoveryS(vm) {
      const own = recoveries.filter((one) => one.vm === vm);
      const seen = (own.length > 0 ? own : recoveries).slice(-latest.recoveries);
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
        const least = flowsHere.reduce((sum, { alone }) => sum + leastS + alone / 4, 0);
        parts.push({ ...part, mean: Math.max(part.mean, least) });
      }
      return plus(parts);
    },
  };
}

function learn(kind: OperationKind, seen: readonly { flow: Flow; seconds: number }[]): Learned {
  const candidates = formsOf(kind).map((form) => {
    const observations = seen.map(
      ({ flow, seconds }, i): Observation => ({
        x: form.features(flow),
        y: seconds,
        scale: scaleOf(kind, flow),
        weight: 0.5 ** ((seen.length - 1 - i) / memory.halfLife),
      }),
    );
    return { form, observations };
  });
  const [plain, ...others] = candidates;
  if (plain === undefined) throw new Error('BUG: a kind of operation without a form');
  let best = { ...plain, error: seen.length === 0 ? null : crossValidate(plain.observations, plain.form.prior) };
  if (best.error !== null && seen.length >= leastForForms)
    for (const other of others) {
      const error = crossValidate(other.observations, other.form.prior);
      if (error < best.error! * advantage) best = { ...other, error };
    }
  const { form, observations, error } = best;
  return { form, regression: regress(downweighted(observations, form.prior), form.prior), error };
}

/** The operations that make up one move. @param asleep it is suspended, and stays that: its files are carried, and no more */
export function operationsOf(mode: MoveMode, move: Omit<Operation, 'kind'>, asleep = false): Operation[] {
  if (mode === 'live') return [{ ...move, kind: 'live' }];
  if (asleep) return [{ ...move, kind: 'copy' }];
  const { from, to } = move;
  return [
    { ...move, kind: 'suspend', to: from },
    { ...move, kind: 'copy' },
    { ...move, kind: 'resume', from: to },
  ];
}
