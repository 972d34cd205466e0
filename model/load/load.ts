/**
 * The load of hosts and VMs over an interval, as hosts report it, the ledger keeps it and the API answers it. A load is a row of
 * numbers in the order of its fields, so that a thousand hosts' are small. Shares are 0 to 1, processors are counted in
 * processors' time a second; null: it could not be measured.
 */

/** `most…`: the highest of the samples that a row is the mean of. */
export const hostLoadFields = [
  'use',
  'mostUse',
  'steal',
  'cpuPressure',
  'memoryPressure',
  'ioPressure',
  'memoryMiB',
  'diskMiB',
  'readMiBPerS',
  'writtenMiBPerS',
  'receivedMiBPerS',
  'sentMiBPerS',
] as const;

export const vmLoadFields = [
  'cpus',
  'mostCpus',
  'steal',
  'memoryMiB',
  'readMiBPerS',
  'writtenMiBPerS',
  'receivedMiBPerS',
  'sentMiBPerS',
] as const;

export type HostLoadField = (typeof hostLoadFields)[number];
export type VmLoadField = (typeof vmLoadFields)[number];

export type LoadValue = number | null;
export type HostLoad = Record<HostLoadField, LoadValue>;
export type VmLoadPoint = Record<VmLoadField, LoadValue>;

export const rowOf = <F extends string>(fields: readonly F[], values: Readonly<Record<F, LoadValue>>): LoadValue[] =>
  fields.map((field) => values[field]);

export const valuesOf = <F extends string>(fields: readonly F[], row: readonly LoadValue[]): Record<F, LoadValue> =>
  Object.fromEntries(fields.map((field, at) => [field, row[at] ?? null])) as Record<F, LoadValue>;

/** Five decimals: less than any of the counters is exact to. */
export const roundLoad = (value: number): number => Math.round(value * 1e5) / 1e5;

const [cpusAt, stealAt] = [vmLoadFields.indexOf('cpus'), vmLoadFields.indexOf('steal')];

/** What a VM got of processors, what part of what it wanted it waited for, and the rest of that: never nothing. */
function sharesOf(row: readonly LoadValue[]): { cpus: number; steal: number; given: number } {
  const [cpus, steal] = [row[cpusAt] ?? 0, row[stealAt] ?? 0];
  return { cpus, steal, given: Math.max(0.01, 1 - steal) };
}

/** Processors that a VM wants: what it got, and what it waited for. */
export function wantedCpus(row: readonly LoadValue[]): number {
  const { cpus, given } = sharesOf(row);
  return cpus / given;
}

/** Processors that a VM wanted and did not get. */
export function starvedCpus(row: readonly LoadValue[]): number {
  const { cpus, steal, given } = sharesOf(row);
  return (cpus * steal) / given;
}

/** Of the processors that a VM wants over hours: mean, variance, and the seconds that they are learned from. */
export type LearnedRow = [mean: number, variance: number, learnedS: number];

/** One interval of a host and its VMs. It ended `agoS` before it was sent: no clock but the ledger's counts. */
export interface ReportedLoad {
  agoS: number;
  durationS: number;
  host: LoadValue[];
  vms: Record<string, LoadValue[]>;
}

/** What a host sends. The same `id` again is the same batch, and kept once. */
export interface LoadBatch {
  id: string;
  processors: number;
  memoryMiB: number;
  diskMiB: number;
  /** The use of each processor in the last interval, in percent. */
  processorUse: number[];
  learned: Record<string, LearnedRow>;
  samples: ReportedLoad[];
}

/**
 * `keptSamples`: what a host keeps while the API does not answer. `vmRows`: of all samples of a batch; a body has at most 20,000
 * values (api/http/json-bounds.ts).
 */
export const loadLimits = {
  heartbeatS: { least: 1, most: 300 },
  samplesPerBatch: 30,
  keptSamples: 90,
  vmsPerSample: 1000,
  vmRows: 1200,
  processors: 1024,
  batchBytes: 512 * 1024,
} as const;

const hourMs = 3_600_000;

/** How long each detail of a series is kept after its hour. Samples become minutes and hours when their time is over. */
export const keptMs = { sample: hourMs, minute: 24 * hourMs, hour: 90 * 24 * hourMs } as const;

/** How many heartbeats a host sends together, and after how long it sends what it has. */
export const batching = { heartbeats: 3, longestS: 60 } as const;

/** What a host's worker does about its load, as the site says. */
export interface LoadSettings {
  /** Seconds from one sample that is kept to the next. */
  heartbeatS: number;
  /** Whether its watchdog asks for help. */
  asksForHelp: boolean;
}

export const defaultLoadSettings: LoadSettings = { heartbeatS: 10, asksForHelp: false };
