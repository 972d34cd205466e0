import { RandomStreams } from './random-streams.ts';

/**
 * VMs with the sizes, lifetimes and processor use that were published of Azure's and Google's clusters, from a seed. The traces
 * themselves are hundreds of gigabytes and report a use every five minutes, which no watchdog could be tried on.
 */

/** Points of a cumulative distribution: value, and the part of the VMs that have at most that. */
type Distribution = readonly (readonly [value: number, part: number])[];

interface Workload {
  /** vCPUs and memory in GiB: sizes, each with the part of the VMs up to and including it. */
  vcpus: Distribution;
  memoryGiB: Distribution;
  lifetimeH: Distribution;
  /** Mean use of its vCPUs, and the 95th percentile of the five-minute maxima; in percent. */
  averageUse: Distribution;
  peakUse: Distribution;
  /** vCPUs that a host may promise for each of its processors. */
  overcommit: number;
}

/**
 * Azure 2019: read off the figures (full lines) of "Azure 2019 Public Dataset V2 – Trace Analysis" in Azure's repository
 * AzurePublicDataset; see Cortez et al., Resource Central, SOSP 2017.
 */
const azure: Workload = {
  vcpus: [
    [1, 0.3],
    [2, 0.58],
    [4, 0.81],
    [8, 0.93],
    [16, 0.98],
    [24, 1],
  ],
  memoryGiB: [
    [2, 0.12],
    [4, 0.285],
    [8, 0.61],
    [16, 0.78],
    [32, 0.9],
    [64, 1],
  ],
  lifetimeH: [
    [0.083, 0],
    [0.5, 0.45],
    [1, 0.65],
    [2, 0.7],
    [5, 0.78],
    [10, 0.83],
    [15, 0.87],
    [20, 0.89],
    [40, 0.905],
    [100, 0.92],
    [720, 1],
  ],
  averageUse: [
    [0.2, 0],
    [1, 0.22],
    [5, 0.43],
    [10, 0.58],
    [20, 0.75],
    [30, 0.84],
    [40, 0.9],
    [50, 0.935],
    [60, 0.96],
    [80, 0.98],
    [100, 1],
  ],
  peakUse: [
    [0.5, 0],
    [1, 0.08],
    [10, 0.2],
    [20, 0.3],
    [30, 0.37],
    [40, 0.44],
    [50, 0.53],
    [60, 0.62],
    [70, 0.7],
    [80, 0.76],
    [90, 0.81],
    [95, 0.86],
    [98, 0.96],
    [100, 1],
  ],
  overcommit: 4,
};

/**
 * Google's Borg in May 2019 (Tirmazi et al., Borg: the Next Generation, EuroSys 2020): the processors' time of jobs has a Pareto
 * tail of 0.69, here that of the lifetimes, and cells use about half of their processors, so that a VM uses far more of what it
 * asked for than Azure's. The distributions of single tasks are not printed there; sizes are as above.
 */
const google: Workload = {
  vcpus: azure.vcpus,
  memoryGiB: azure.memoryGiB,
  lifetimeH: [0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998].map((part) => [0.083 * (1 - part) ** (-1 / 0.69), part]),
  averageUse: [
    [2, 0],
    [10, 0.15],
    [20, 0.35],
    [40, 0.68],
    [60, 0.88],
    [80, 0.97],
    [100, 1],
  ],
  peakUse: [
    [10, 0],
    [30, 0.15],
    [50, 0.35],
    [70, 0.6],
    [90, 0.85],
    [100, 1],
  ],
  overcommit: 2,
};

export const workloads = { azure, google } as const;
export type WorkloadName = keyof typeof workloads;

/** The value below which a part of the VMs is, on straight lines between the points. */
function quantile(distribution: Distribution, part: number): number {
  const at = distribution.findIndex(([, until]) => until >= part);
  if (at === -1) return distribution.at(-1)![0];
  if (at === 0) return distribution[0]![0];
  const [before, from] = distribution[at - 1]!;
  const [after, to] = distribution[at]!;
  return before + ((after - before) * (part - from)) / (to - from);
}

/** The size at that part; sizes are not between the points. */
const stepQuantile = (distribution: Distribution, part: number): number =>
  (distribution.find(([, until]) => until >= part) ?? distribution.at(-1)!)[0];

/** The mean of a distribution of straight lines. */
const meanOf = (distribution: Distribution): number =>
  distribution
    .slice(1)
    .reduce((sum, [value, until], i) => sum + ((value + distribution[i]![0]) / 2) * (until - distribution[i]![1]), 0);

/**
 * A VM of the trace. It is busy or idle in turns, with the levels' mean the published average and its busy level the published
 * peak; spikes of one step come beside them.
 */
export interface TraceVm {
  arrivesS: number;
  endsS: number;
  /** How long it had run when the simulation began. */
  ageS: number;
  vcpus: number;
  memoryMiB: number;
  /** In processors. */
  idleCpus: number;
  busyCpus: number;
  busyPart: number;
  /** Hour of the day at which it is busy most often; null: its day has no hours. */
  peakHour: number | null;
  /** Whether its lease's end is known. */
  leased: boolean;
}

export interface BalanceTrace {
  name: WorkloadName;
  seed: number;
  hosts: number;
  processors: number;
  capacity: { vcpus: number; memoryMiB: number };
  lastsS: number;
  /** By arrival. */
  vms: readonly TraceVm[];
}

const host = { processors: 32, memoryMiB: 512 * 1024 } as const;
/** The part of the site's vCPUs that is promised on average. */
const allocated = 0.85;

/** @param overcommit of the vCPUs; without it, the workload's */
export function generateBalanceTrace(
  name: WorkloadName,
  seed: number,
  hosts: number,
  hours: number,
  overcommit: number = workloads[name].overcommit,
): BalanceTrace {
  const workload = workloads[name];
  const capacity = { vcpus: Math.round(host.processors * overcommit), memoryMiB: host.memoryMiB };
  const random = new RandomStreams(4, seed);
  const meanVcpus = workload.vcpus.reduce((sum, [size, until], i, all) => sum + size * (until - (all[i - 1]?.[1] ?? 0)), 0);
  const running = (hosts * capacity.vcpus * allocated) / meanVcpus;
  const lastsS = hours * 3600;
  const vms: TraceVm[] = [];
  // Of the VMs that run at a moment most are long-lived: those that are there at first are drawn by their lifetimes.
  const longestH = workload.lifetimeH.at(-1)![0];
  while (vms.length < running) {
    const lifetimeS = quantile(workload.lifetimeH, random.next(0)) * 3600;
    if (random.next(0) * longestH * 3600 > lifetimeS) continue;
    const ageS = random.next(0) * lifetimeS;
    vms.push({ ...drawVm(workload, random), arrivesS: 0, ageS, endsS: lifetimeS - ageS });
  }
  const everyS = (meanOf(workload.lifetimeH) * 3600) / running;
  for (let atS = everyS; atS < lastsS; atS += -everyS * Math.log(1 - random.next(1))) {
    const lifetimeS = quantile(workload.lifetimeH, random.next(1)) * 3600;
    vms.push({ ...drawVm(workload, random), arrivesS: atS, ageS: 0, endsS: atS + lifetimeS });
  }
  return { name, seed, hosts, processors: host.processors, capacity, lastsS, vms };
}

function drawVm(workload: Workload, random: RandomStreams): Omit<TraceVm, 'arrivesS' | 'endsS' | 'ageS'> {
  const size = random.next(2);
  const vcpus = stepQuantile(workload.vcpus, size);
  // Memory goes with the vCPUs, and the peak with the average, but not strictly.
  const near = (part: number) => Math.min(0.999, Math.max(0, part + 0.15 * random.normal(2)));
  const memoryMiB = stepQuantile(workload.memoryGiB, near(size)) * 1024;
  const part = random.next(3);
  const average = quantile(workload.averageUse, part) / 100;
  const peak = Math.max(average, quantile(workload.peakUse, near(part)) / 100);
  // Half of what it uses it uses while it is busy.
  const busyPart = Math.min(0.9, Math.max(0.02, average / (2 * peak)));
  return {
    vcpus,
    memoryMiB,
    idleCpus: (vcpus * Math.max(0, average - busyPart * peak)) / (1 - busyPart),
    busyCpus: vcpus * peak,
    busyPart,
    peakHour: random.next(3) < 0.5 ? 9 + 8 * random.next(3) : null,
    leased: random.next(3) < 0.5,
  };
}
