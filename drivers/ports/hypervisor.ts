import type { DomainConfig, DomainEnd, DomainStatus } from '../../contracts/domain.ts';

export interface Hypervisor {
  /** null where there is no such domain. `host-busy` where the hypervisor doesn't answer in time. */
  status(name: string): Promise<DomainStatus | null>;
  list(): Promise<{ name: string; uuid: string; status: DomainStatus }[]>;
  /** Starts a transient domain. `not-ours` when name, uuid, MAC or tap are in use by another. */
  create(config: DomainConfig): Promise<void>;
  /** Ends a domain at once; succeeds also where it is gone already. */
  destroy(name: string): Promise<void>;
  /** How the last domain of this name ended; null where the hypervisor's log doesn't have it. Asked when there is none now. */
  lastEnd(name: string): Promise<DomainEnd | null>;
  /**
   * Calls `onChange` with a domain's name after each change of its state, and with null where changes may have been missed:
   * when it begins, and when it has lost the hypervisor. Returns when it is aborted.
   */
  watch(onChange: (name: string | null) => void, signal: AbortSignal): Promise<void>;
  pauseCpus(name: string): Promise<void>;
  /** Lets a guest run on that is paused, or that has suspended itself to memory. */
  resumeCpus(name: string): Promise<void>;
  /** Removes the ISO from the CD-ROM drive; succeeds also where there is none in it. */
  eject(name: string): Promise<void>;
  /** Resets the machine, which boots again. Only where `onReboot` is `restart`. */
  reset(name: string): Promise<void>;
  /**
   * Writes a running domain's memory to a file and ends it. A failure leaves it running; after `host-busy` the outcome is
   * unknown. `disk-full` where the disk has no space.
   */
  save(name: string, file: string): Promise<void>;
  /** Whether a file has a domain's complete memory; false where there is no file, or its save was interrupted. */
  isSaved(file: string): Promise<boolean>;
  /** Starts a domain from its saved memory, paused: it executes no instruction. The file remains. */
  restore(file: string, config: DomainConfig): Promise<void>;
  /** The version string, e.g. `QEMU 10.0.3, libvirt 11.3.0`. */
  version(): Promise<string>;
}
