import type { VmRules } from '../constraints.ts';
import type { Load } from '../drains/migration-operations.ts';
import type { TargetHost } from '../migration-target.ts';

/** The site as the balancer sees it. Processors are counted in processors' time a second: `cpus` of 1.5 keep one and a half busy. */

/** What VMs want of processors: all of a host, or one VM. */
export interface ProcessorLoad {
  /** In the last half minute or so: what is wanted, also where it isn't given. */
  cpus: number;
  /** Over the last hours: mean and variance. */
  meanCpus: number;
  varianceCpus: number;
}

/** Capacity of a host that is promised to leases from a moment on. */
export interface PromisedCapacity {
  fromMs: number;
  vcpus: number;
  memoryMiB: number;
}

export interface BalanceHost extends Omit<TargetHost, 'hasImage'> {
  labels: ReadonlyMap<string, string>;
  images: ReadonlySet<string>;
  /** False: the balancer moves no VM to it and none away. */
  balance: boolean;
  /** Its drain moves what is on it. */
  draining: boolean;
  /** Physical processors; `capacity.vcpus` may be more. */
  processors: number;
  /** Of the VMs that are on it once the migrations under way have ended. */
  load: ProcessorLoad;
  promises: readonly PromisedCapacity[];
  /** How many VMs that is. */
  vms: number;
}

export interface BalanceVm extends VmRules {
  id: string;
  host: string;
  vcpus: number;
  memoryMiB: number;
  load: ProcessorLoad;
  /** What the migration model knows of it. */
  migration: Load;
  /** What it reads and writes of its disks; away from its home this goes over the network. */
  diskMiBPerS: number;
  /** Where its disks are, which stay there; null: nowhere. */
  home: string | null;
  image: { id: string; mib: number } | null;
  startedAtMs: number;
  /** The end of its lease; null: it has none. */
  endsByMs: number | null;
  /** Never moved by the balancer. */
  pinned: boolean;
  /** Its owner asked to leave it where it is, unless much is gained. */
  keep: boolean;
  /** Its lease was promised this host. */
  promisedHost: boolean;
  /** Why it can't move now: it is being made, moved, suspended or removed. null: it can. */
  unmovable: string | null;
  /** When the balancer moved it, oldest first; of the last day. */
  movedAtMs: readonly number[];
}

export interface BalancePolicy {
  /** A move has to gain this many times its cost. */
  margin: number;
  /** And at least this many seconds of all processors of the host that it leaves. */
  leastGainS: number;
  /** A target is not filled beyond this part of its processors, by what its VMs want now or over hours. */
  targetUse: number;
  /** So many standard deviations above what its VMs want over hours, with the new one, a target's processors are enough. */
  deviations: number;
  /** The stress has to be expected to last so many times as long as the move takes: else it may be over before. */
  outlasts: number;
  /** The longest time that a gain is predicted for. Longer ones make more moves and more overload: docs/balancing.md. */
  horizonS: number;
  coolDown: { firstS: number; factor: number; mostS: number };
  /** Times the cost, for a VM that its owner asked to keep. */
  keepFactor: number;
  /** Processor-seconds that each unmet preferred rule costs an hour. */
  unmetCpuSPerH: number;
  /** Aim `pack`: what a host that is switched off is worth, in processors. */
  emptyHostCpus: number;
}

export const balancePolicy: BalancePolicy = {
  margin: 5,
  leastGainS: 3,
  targetUse: 0.75,
  deviations: 2,
  outlasts: 3,
  horizonS: 900,
  coolDown: { firstS: 600, factor: 2, mostS: 24 * 3600 },
  keepFactor: 4,
  unmetCpuSPerH: 60,
  emptyHostCpus: 2,
};

const dayMs = 24 * 3600 * 1000;

/** Until when the balancer leaves a VM alone that it has moved: each move within a day makes it longer. */
export function coolingUntilMs(movedAtMs: readonly number[], nowMs: number, { coolDown }: BalancePolicy): number {
  const last = movedAtMs.at(-1);
  if (last === undefined) return 0;
  const recent = movedAtMs.filter((atMs) => atMs > nowMs - dayMs).length;
  const seconds = Math.min(coolDown.mostS, coolDown.firstS * coolDown.factor ** Math.max(0, recent - 1));
  return last + seconds * 1000;
}

/** The shortest time for which a VM without a lease is expected to stay. */
const leastStayS = 300;

/**
 * For how long a VM is expected to stay: until its lease ends; without one, for as long again as it has run. Lifetimes of VMs
 * are that heavy-tailed (Cortez et al., Resource Central, SOSP 2017).
 */
export function remainingS({ endsByMs, startedAtMs }: Pick<BalanceVm, 'endsByMs' | 'startedAtMs'>, nowMs: number): number {
  if (endsByMs !== null) return Math.max(0, (endsByMs - nowMs) / 1000);
  return Math.max(leastStayS, (nowMs - startedAtMs) / 1000);
}
