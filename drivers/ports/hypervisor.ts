import type { DomainConfig, DomainStatus } from '../../contracts/domain.ts';

export interface Hypervisor {
  /** null when there is no such domain. `host-busy` when the hypervisor doesn't answer in time. */
  status(name: string): Promise<DomainStatus | null>;
  list(): Promise<{ name: string; uuid: string; status: DomainStatus }[]>;
  /** Starts a transient domain. `not-ours` when name, uuid, MAC or tap are in use by another. */
  create(config: DomainConfig): Promise<void>;
  /** Ends it at once; success when it is gone, also when it already was. */
  destroy(name: string): Promise<void>;
  pauseCpus(name: string): Promise<void>;
  resumeCpus(name: string): Promise<void>;
  /** Takes the disc out of its drive; success when there is none in it. */
  eject(name: string): Promise<void>;
  /** Presses the reset button: the same machine boots again. Only where `onReboot` is `restart`. */
  reset(name: string): Promise<void>;
  /**
   * Writes a running domain's memory to a file and ends it. A failure leaves it running; after `host-busy` that has to
   * be seen. `disk-full` where there is no room.
   */
  save(name: string, file: string): Promise<void>;
  /** Whether a file holds a domain's whole memory: neither where there is none, nor where its save was interrupted. */
  isSaved(file: string): Promise<boolean>;
  /** Starts a domain from its saved memory, paused: not one instruction of it is executed. The file stays. */
  restore(file: string, config: DomainConfig): Promise<void>;
  /** The version string, e.g. `QEMU 10.0.3, libvirt 11.3.0`. */
  version(): Promise<string>;
}
