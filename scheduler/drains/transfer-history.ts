import { convergencePolicy } from '../../model/migration.ts';
import { median } from '../statistics.ts';
import type { Load, MigrationOperation, MigrationSample, OperationKind } from './migration-operations.ts';
import { estimatePreCopy, type PreCopyEstimate } from './pre-copy.ts';

/** MiB/s before the first measurement, from emulated hosts. */
const priorBandwidth: Record<OperationKind, number> = { live: 60, copy: 80, suspend: 150, resume: 150, disks: 60 };
/** The part that is sent of a VM's memory, and of the virtual size of its disks, which are sparse. */
const priorFraction = { memory: 0.6, disks: 0.1 } as const;
/** Of a guest without a measurement. */
const priorDirtyMiBPerS = 2;
/** How far two samples of a constant dirty rate may differ. */
const dirtyRateTolerance = { times: 2, leastMiBPerS: 2 } as const;
/** The part of the shortest copy that is assumed not to depend on the size; and the least size that tells a bandwidth. */
const deltaCopy = { part: 0.8, leastMiB: 4 } as const;
/** How many of the latest measurements an estimate is the median of. */
const medianWindows = { bandwidths: 5, parts: 20 } as const;
/** A shorter flow tells no bandwidth. */
const minFlowS = 0.05;

/** The basis of an operation's features: seconds of its transfer with the whole network, and with its share of it. */
export interface Flow {
  aloneS: number;
  sharedS: number;
  otherOperations: number;
}

/** `changes`: a copy to a host that has an older version of the VM's files transfers only what has changed. */
type TransferKind = OperationKind | 'changes';

/** Measured bandwidths and transferred sizes up to a moment: what a prediction may use. */
export class TransferHistory {
  readonly #bandwidth = new Map<string, number[]>();
  readonly #bytesOfVm = new Map<string, number>();
  readonly #fractions = new Map<TransferKind, number[]>();
  #leastCopyS = Number.POSITIVE_INFINITY;
  /** Pairs of a VM and a host from which it was copied. */
  readonly #departed = new Set<string>();
  /** What live migrations sent as a part of the resident memory: shared and empty pages are not sent. */
  #fractionsOfResident: number[] = [];
  /** The highest dirty rate of a VM before a move whose bytes are known: these include what it wrote during the move. */
  readonly #dirtyOfVm = new Map<string, number>();

  record(sample: MigrationSample): void {
    const { kind, from, to, load } = sample;
    const mib = sample.bytes / 2 ** 20;
    const transferKind = this.#hasPreviousVersion(sample) ? 'changes' : kind;
    if (kind === 'copy') this.#departed.add(`${load.vm} ${from}`);
    if (mib <= 0) return;
    if (kind === 'copy') this.#leastCopyS = Math.min(this.#leastCopyS, sample.transferS);
    // Most of a copy's time is the comparison with the files on the target, however little is sent.
    const flowS = kind === 'copy' ? sample.transferS - deltaCopy.part * this.#leastCopyS : sample.transferS;
    if (flowS >= minFlowS && (kind !== 'copy' || mib >= deltaCopy.leastMiB))
      for (const key of bandwidthKeys(kind, from, to)) {
        const bandwidth = (mib / flowS) * Math.max(1, sample.concurrency);
        this.#bandwidth.set(key, appendBounded(this.#bandwidth.get(key), bandwidth, medianWindows.bandwidths));
      }
    this.#bytesOfVm.set(`${transferKind} ${load.vm}`, mib);
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
    this.#fractions.set(transferKind, appendBounded(this.#fractions.get(transferKind), fraction, medianWindows.parts));
  }

  #hasPreviousVersion({ kind, to, load }: MigrationOperation): boolean {
    return kind === 'copy' && this.#departed.has(`${load.vm} ${to}`);
  }

  /** Until one copy of changes was measured, it is expected to be like any other copy. */
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
   * What is sent of an idle VM: as much as the last time; else the median fraction of its size. A copy is compressed, so the
   * resident memory is not used once copies were measured.
   */
  transferredMiB(kind: OperationKind, load: Load, transferKind: TransferKind = kind): number {
    const size = sizeOf(kind, load);
    const before = this.#bytesOfVm.get(`${transferKind} ${load.vm}`);
    if (before !== undefined) return Math.min(before, size);
    const fractions = this.#fractions.get(transferKind) ?? [];
    const prior = kind === 'disks' ? priorFraction.disks : priorFraction.memory;
    const usual = size * (fractions.length === 0 ? prior : median(fractions));
    const isSeen = kind === 'disks' || (kind === 'copy' && fractions.length > 0);
    if (load.residentMiB === null || isSeen) return usual;
    const part = kind === 'live' && this.#fractionsOfResident.length > 0 ? median(this.#fractionsOfResident) : 1;
    return Math.min(size, load.residentMiB * part);
  }

  /** The dirty rate beyond that of its earlier moves, whose transferred size includes the writes at that rate. */
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
    const otherOperations = share - 1;
    if (kind === 'live') {
      const alone = this.preCopy(operation, 1);
      const shared = this.preCopy(operation, share);
      return { aloneS: alone.seconds + alone.downtimeS, sharedS: shared.seconds + shared.downtimeS, otherOperations };
    }
    // A suspend also writes what the guest writes meanwhile.
    const dirty = kind === 'suspend' ? (load.dirtyMiBPerS ?? priorDirtyMiBPerS) : 0;
    const sentMiB = this.transferredMiB(kind, load, this.#transferKindOf(operation));
    const alone = (sentMiB + dirty) / this.bandwidth(kind, from, to);
    return { aloneS: alone, sharedS: alone * share, otherOperations };
  }
}

function appendBounded<T>(seen: readonly T[] | undefined, value: T, most: number): T[] {
  return [...(seen ?? []), value].slice(-most);
}

/** The most that an operation of this kind can send. */
const sizeOf = (kind: OperationKind, { memoryMiB, diskMiB }: Load): number => (kind === 'disks' ? (diskMiB ?? 0) : memoryMiB);

/** The pair's own bandwidth, then that of its source, then the site's. */
function bandwidthKeys(kind: OperationKind, from: string, to: string): string[] {
  return [`${kind} ${from} ${to}`, `${kind} ${from}`, kind];
}
