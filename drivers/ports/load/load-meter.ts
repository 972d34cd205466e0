/** What a machine has counted until now. Counters only grow, until the machine is booted again. */
export interface MachineCounters {
  /** By the meter's clock. */
  atMs: number;
  /** Of each processor, in any unit. */
  processors: { busy: number; total: number }[];
  /** Microseconds in which tasks waited (`some` of pressure stall information); null: the kernel has none. */
  pressureUs: { cpu: number; memory: number; io: number } | null;
  /** Of the control group that guests' processes are in; null: there is none. */
  guests: GroupCounters | null;
  memory: { totalMiB: number; usedMiB: number };
  /** The file system of Berth's folder. */
  disk: { totalMiB: number; usedMiB: number };
  /** Of all disks, and of all interfaces that are not guests'. */
  readBytes: number;
  writtenBytes: number;
  receivedBytes: number;
  sentBytes: number;
}

/** What a control group has counted. */
export interface GroupCounters {
  /** Processors that it may keep busy: those of its limit, 0.5 for half of one, or the machine's. */
  processors: number;
  isLimited: boolean;
  /** Processors' time that it has used. */
  usedS: number;
  /** Periods of its limit in which it had something to do, and in which its limit was used up. */
  periods: number;
  throttledPeriods: number;
  /** As the machine's; null: the kernel counts none of groups. */
  pressureUs: MachineCounters['pressureUs'];
}

/** What a running domain has counted since it was started here. */
export interface DomainCounters {
  name: string;
  /** Processor time of its vCPUs, and the time that they waited for a processor, in nanoseconds. */
  cpuNs: number;
  delayNs: number;
  /** What its guest uses, where that says so, else what its process takes; null: not known. */
  memoryMiB: number | null;
  readBytes: number;
  writtenBytes: number;
  receivedBytes: number;
  sentBytes: number;
}

export interface LoadMeter {
  /** The clock of the counters, in ms: it is never set. */
  nowMs(): number;
  readMachine(): Promise<MachineCounters>;
  /**
   * Of all running domains, with two questions to the hypervisor, and one more for each whose disks are on another host. One that
   * can't be asked now is left out.
   */
  readDomains(): Promise<DomainCounters[]>;
}
