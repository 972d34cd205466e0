import type { DomainConfig, DomainStatus } from '../../contracts/domain.ts';
import type { MigrationJob } from '../../model/migration.ts';
import type { VmLoad } from '../../model/vm.ts';

export interface MigrationRequest {
  /** The domain as the target is to have it: the same machine, its disks from where they are. */
  config: DomainConfig;
  /** Address of the target on the hosts' network. */
  targetAddress: string;
  /** When the hypervisor's client is given up; the migration itself goes on. */
  deadlineMs: number;
}

/**
 * Live migration, as the source's host works on it. The guest arrives paused, and is resumed only when the source is
 * known to be gone: so no lost contact makes two of it.
 */
export interface Migrator {
  /**
   * Moves a domain's memory, to its end; returns what the hypervisor said of it. That is no evidence of where the VM
   * is: ask both hosts. `host-busy` when it said nothing.
   */
  migrate(order: MigrationRequest): Promise<void>;
  /** The job of a domain that leaves this host; null where there is no domain, `active: false` where it has no job. */
  observeJob(name: string): Promise<MigrationJob | null>;
  /** Ends a migration from here; harmless where there is none. */
  abort(name: string): Promise<void>;
  setMaxDowntime(name: string, ms: number): Promise<void>;
  /** What a domain does with its memory and processors, looked at for a second; null where there is no domain that runs. */
  measureLoad(name: string): Promise<VmLoad | null>;
  /** Time of processors that a domain has used since it came here; null where there is none, or the hypervisor doesn't say. */
  readCpuSeconds(name: string): Promise<number | null>;
  /** Watches the process of a domain of this host; null where there is none. */
  watchProcess(name: string): Promise<ProcessHandle | null>;
  /** The other host, asked from here, for the moment of the switch. */
  openPeer(address: string): PeerHypervisor;
}

/** The process that a domain is. Once it has ended, the domain executes nothing, whatever the hypervisor still says of it. */
export interface ProcessHandle {
  hasEnded(): boolean;
  /** Resolves as soon as it has ended; rejects with the signal's reason when that aborts first. */
  waitForEnd(signal: AbortSignal): Promise<void>;
}

export interface PeerHypervisor {
  /** Begins to connect, for whoever will be in a hurry; how that goes is seen by the first question. */
  connect(): void;
  status(name: string): Promise<DomainStatus | null>;
  resume(name: string): Promise<void>;
  close(): void;
}
