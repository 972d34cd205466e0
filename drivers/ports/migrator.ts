import type { DomainConfig, DomainStatus } from '../../contracts/domain.ts';
import type { MigrationJob } from '../../model/migration.ts';
import type { VmLoad } from '../../model/vm.ts';

export interface MigrationRequest {
  /** The domain as the target is to run it: the same machine, with its disks where they are. */
  config: DomainConfig;
  /** Address of the target on the hosts' network. */
  targetAddress: string;
  /** The deadline of the hypervisor's client; the migration itself continues after it. */
  deadlineMs: number;
}

/**
 * Live migration, from the source's side. The guest arrives paused, and is resumed only when the source is known to have
 * ended: so no lost connection makes two running copies of it.
 */
export interface Migrator {
  /**
   * Migrates a domain's memory; returns or throws when the hypervisor's client ends. Neither proves where the VM is: the
   * caller has to observe both hosts. `host-busy` where the client didn't answer.
   */
  migrate(request: MigrationRequest): Promise<void>;
  /** The migration job of a domain on its source; null where there is no domain, `active: false` where it has no job. */
  observeJob(name: string): Promise<MigrationJob | null>;
  /** Aborts a migration from this host; succeeds where there is none. */
  abort(name: string): Promise<void>;
  setMaxDowntime(name: string, ms: number): Promise<void>;
  /** A domain's use of memory and processors, sampled for a second; null where no such domain runs. */
  measureLoad(name: string): Promise<VmLoad | null>;
  /** The processor time that a domain has used on this host; null where there is no such domain, or it isn't known. */
  readCpuSeconds(name: string): Promise<number | null>;
  /** Watches the process of a domain of this host; null where there is none. */
  watchProcess(name: string): Promise<ProcessHandle | null>;
  /** The target's hypervisor, called from this host during the hand-over. */
  openPeer(address: string): PeerHypervisor;
}

/** The process of a domain. Once it has ended, the domain executes nothing, whatever the hypervisor still reports. */
export interface ProcessHandle {
  hasEnded(): boolean;
  /** Resolves as soon as it has ended; rejects with the signal's reason when that aborts first. */
  waitForEnd(signal: AbortSignal): Promise<void>;
}

export interface PeerHypervisor {
  /** Starts to connect, so that the first call is fast; that call reports a failure. */
  connect(): void;
  status(name: string): Promise<DomainStatus | null>;
  resume(name: string): Promise<void>;
  close(): void;
}
