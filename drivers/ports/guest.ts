import type { Boot } from '../../model/vm.ts';

export interface GuestIdentity {
  /**
   * What a new guest gets in addition: after its first boot, host keys of its own; from a template also its network card's
   * address and a boot id. null: not a new guest, which keeps them.
   */
  firstBootKind: Boot['kind'] | null;
  mac: string;
  hostname: string;
  /** 32 hexadecimal digits. */
  machineId: string;
  address: string;
  /** CIDR of the network that `address` is in. */
  cidr: string;
  gateway: string;
  neighbours: { name: string; address: string }[];
  timeMs: number;
}

/** How a long-lived guest is set up after it has its identity. */
export interface GuestSetup {
  hostKey: { private: string; public: string };
  user: { name: string; sshKey: string } | null;
  files: { from: string; path: string; mode: string }[];
  firstBoot: string[];
  swapMiB: number;
}

export interface GuestJob {
  argv: string[];
  env: Record<string, string>;
  /** After this the guest ends the command itself, first with TERM, then with KILL. */
  timeoutS: number;
  /** Of its log and the tail together. */
  logLimitBytes: number;
}

/** The end of an output that its log has no room for, in a ring. */
export interface LogTail {
  /** How many bytes between the log and the tail were not kept. */
  leftOutBytes: number;
  bytes: number;
  /** Where in the ring it begins; it goes on at 0. */
  from: number;
}

/** Linux numbers signals from 1 to this one. */
export const lastSignal = 64;

export type JobResult =
  | {
      kind: 'exited';
      exitCode: number;
      timedOut: boolean;
      stopped: boolean;
      seconds: number;
      /** The signal that ended it, null for none; `unknown` where what runs it does not tell: then `exitCode` may stand for one. */
      signal: number | null | 'unknown';
      /** The length of the log, without its tail; null where it is only known by reading the log. */
      logBytes: number | null;
      /** null: no tail is kept, and how much was dropped is not known. */
      tail: LogTail | null;
    }
  /** There is no such program, or it cannot be executed. */
  | { kind: 'notStarted'; why: string };

/**
 * A running guest, through its agent. `vm-lost` when the domain is gone, `host-busy` when the agent doesn't answer
 * in time, `hypervisor` when it refuses.
 */
export interface Guest {
  /** Writes the ISO from which cloud-init reads the guest's name and network at the first boot. */
  writeSeed(path: string, identity: GuestIdentity): Promise<void>;
  /** Waits until cloud-init has completed its part of a boot; returns at once where there is none. */
  awaitCloudInit(domain: string): Promise<void>;
  /** Whether the agent answers now. */
  ping(domain: string): Promise<boolean>;
  /** Waits for the end of the boot and brings the guest to the state of a template; `boot-failed` where that fails. */
  quiesce(domain: string): Promise<void>;
  /** Sets the guest's name, address and clock, and mounts the data disk at /home/task; repeatable. */
  applyIdentity(domain: string, identity: GuestIdentity): Promise<void>;
  /** Sets the guest up as requested, also for its later boots; repeatable: the first boot's commands run once. */
  setUp(domain: string, identity: GuestIdentity, setup: GuestSetup): Promise<void>;
  /** Starts the job, unless one was started in this guest before. It outlives this process. */
  startJob(domain: string, job: GuestJob): Promise<void>;
  /** Whether a job was started in this guest, without starting a program there; may be false for a moment after a start. */
  hasJob(domain: string): Promise<boolean>;
  /** null as long as the job runs. */
  observeJob(domain: string): Promise<JobResult | null>;
  /** Up to `limit` bytes of the job's log from an offset; empty at its end. */
  readLog(domain: string, from: number, limit: number): Promise<Buffer>;
  /** The same of the ring that has the log's tail. */
  readLogTail(domain: string, from: number, limit: number): Promise<Buffer>;
  /** Ends the job and all its processes; where none was started, prevents a later start. */
  stopJob(domain: string): Promise<void>;
  /** Writes what the guest has in memory of /home/task to the data disk; it goes on writing. */
  syncDataDisk(domain: string): Promise<void>;
  /** Flushes /home/task to the data disk and stops further writes to it; repeatable. */
  flushDataDisk(domain: string): Promise<void>;
  /** The kernel's id of this boot. */
  bootId(domain: string): Promise<string>;
  /** Reboots the guest through its own init; doesn't wait for it. */
  reboot(domain: string): Promise<void>;
  /** Shuts the guest down through its own init; doesn't wait for it; repeatable. */
  shutDown(domain: string): Promise<void>;
}
