import type { Boot } from '../../model/vm.ts';

export interface GuestIdentity {
  /**
   * What it has to be given because it has just come to be: after its first boot, host keys of its own; from a template
   * in addition its network card's address and a boot id. null: it has them, and keeps them.
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

/** What a guest that lasts is made, after it has its identity. */
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
  /** After this the guest itself ends the command, first with TERM, then with KILL. */
  timeoutS: number;
  logLimitBytes: number;
}

export type JobResult =
  | {
      kind: 'exited';
      exitCode: number;
      timedOut: boolean;
      stopped: boolean;
      seconds: number;
      /** The length of the complete log; null where only reading it tells. */
      logBytes: number | null;
    }
  /** There is no such program, or it cannot be executed. */
  | { kind: 'notStarted'; why: string };

/**
 * A running guest, through its agent. `vm-lost` when the domain is gone, `host-busy` when the agent doesn't answer
 * in time, `hypervisor` when it refuses.
 */
export interface Guest {
  /** Writes the disc from which cloud-init takes the guest's name and network at its first boot. */
  writeSeed(path: string, identity: GuestIdentity): Promise<void>;
  /** Waits until cloud-init has done its part of a boot; at once where there is none. */
  awaitCloudInit(domain: string): Promise<void>;
  /** Whether the agent answers now. */
  ping(domain: string): Promise<boolean>;
  /** Waits until its boot has settled and brings it to a state from which others can start; `boot-failed` when it can't be. */
  quiesce(domain: string): Promise<void>;
  /** Gives the guest its name, address and clock, and mounts the data disk at /home/task; repeatable. */
  applyIdentity(domain: string, identity: GuestIdentity): Promise<void>;
  /** Makes a guest what was ordered, also for its later boots; repeatable, the first boot's commands run once. */
  setUp(domain: string, identity: GuestIdentity, setup: GuestSetup): Promise<void>;
  /** Starts the job, unless one was started in this guest before. It outlives this process. */
  startJob(domain: string, job: GuestJob): Promise<void>;
  /** Whether one was started in this guest, asked without starting a program there; a moment after its start it may yet be no. */
  hasJob(domain: string): Promise<boolean>;
  /** null as long as the job runs. */
  observeJob(domain: string): Promise<JobResult | null>;
  /** Up to `limit` bytes of the job's log from an offset; empty at its end. */
  readLog(domain: string, from: number, limit: number): Promise<Buffer>;
  /** Ends the job and all it started; where none was started, none can be any more. */
  stopJob(domain: string): Promise<void>;
  /** Brings what was written to /home/task to the data disk and stops further writes to it; repeatable. */
  flushDataDisk(domain: string): Promise<void>;
  /** The kernel's id of this boot. */
  bootId(domain: string): Promise<string>;
  /** Has the guest shut down and boot again; doesn't wait for it. */
  reboot(domain: string): Promise<void>;
  /** Asks the guest to shut down in order, and doesn't wait for it; repeatable. */
  shutDown(domain: string): Promise<void>;
}
