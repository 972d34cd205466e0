import { hostLoadFields, type LoadValue, roundLoad, vmLoadFields } from '../../model/load/load.ts';

export const [minuteMs, hourMs] = [60_000, 3_600_000];

/** Values of an interval: seconds after the begin of its chunk, its length, and the values. */
export type LoadRow = [offsetS: number, durationS: number, ...LoadValue[]];

/** Rows of one chunk, in their order. */
export interface ChunkRows {
  fromMs: number;
  host: LoadRow[];
  vms: Record<string, LoadRow[]>;
}

/** The rows as they were written. */
export function parseChunk(host: string, vms: string): Omit<ChunkRows, 'fromMs'> {
  return { host: JSON.parse(host) as ChunkRows['host'], vms: JSON.parse(vms) as ChunkRows['vms'] };
}

/** Of each field how rows become one: the mean over their time, or the highest. */
const highest = { host: fieldsAt(hostLoadFields), vm: fieldsAt(vmLoadFields) } as const;

function fieldsAt(fields: readonly string[]): ReadonlySet<number> {
  return new Set(fields.flatMap((field, at) => (field.startsWith('most') ? [at] : [])));
}

/** Rows of several chunks as one row each `stepMs` from `fromMs` on; steps without a row are left out. */
export class LoadSeries {
  readonly #kind: keyof typeof highest;
  readonly #fromMs: number;
  readonly #stepMs: number;
  readonly #steps = new Map<number, { seconds: number; sums: number[]; weights: number[] }>();

  constructor(kind: keyof typeof highest, fromMs: number, stepMs: number) {
    this.#kind = kind;
    this.#fromMs = fromMs;
    this.#stepMs = stepMs;
  }

  /** A row counts where its interval begins. */
  add(chunkFromMs: number, [offsetS, durationS, ...values]: LoadRow, untilMs = Number.POSITIVE_INFINITY): void {
    const atMs = chunkFromMs + offsetS * 1000;
    if (atMs < this.#fromMs || atMs >= untilMs) return;
    const step = Math.floor((atMs - this.#fromMs) / this.#stepMs);
    const sums = this.#steps.get(step) ?? { seconds: 0, sums: values.map(() => 0), weights: values.map(() => 0) };
    sums.seconds += durationS;
    for (const [at, value] of values.entries()) {
      if (value === null || sums.sums[at] === undefined) continue;
      if (highest[this.#kind].has(at)) sums.sums[at] = Math.max(sums.sums[at], value);
      else sums.sums[at] += value * durationS;
      sums.weights[at]! += durationS;
    }
    this.#steps.set(step, sums);
  }

  /** In the order of time, as rows of a chunk that begins at `fromMs`. */
  rows(): LoadRow[] {
    return [...this.#steps]
      .sort(([a], [b]) => a - b)
      .map(([step, { seconds, sums, weights }]) => [
        (step * this.#stepMs) / 1000,
        roundLoad(seconds),
        ...sums.map((sum, at) => {
          if (weights[at] === 0) return null;
          return roundLoad(highest[this.#kind].has(at) ? sum : sum / weights[at]!);
        }),
      ]);
  }
}

/** The rows of several chunks in less detail: one chunk that begins at `fromMs`. */
export function mergeChunks(chunks: readonly ChunkRows[], fromMs: number, stepMs: number): ChunkRows {
  const host = new LoadSeries('host', fromMs, stepMs);
  const vms = new Map<string, LoadSeries>();
  for (const chunk of chunks) {
    for (const row of chunk.host) host.add(chunk.fromMs, row);
    for (const [vm, rows] of Object.entries(chunk.vms)) {
      const series = vms.get(vm) ?? new LoadSeries('vm', fromMs, stepMs);
      for (const row of rows) series.add(chunk.fromMs, row);
      vms.set(vm, series);
    }
  }
  return { fromMs, host: host.rows(), vms: Object.fromEntries([...vms].map(([vm, series]) => [vm, series.rows()])) };
}
