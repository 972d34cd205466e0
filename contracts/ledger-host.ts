import type { HostFacts, HostInventory } from '../model/host.ts';
import type { HostId, VmId } from '../model/ids.ts';
import type { DomainReport } from './domain.ts';
import type { Notification } from './ledger-placement.ts';

export interface HostDifference {
  /** On the host, without a row: a domain is reported, disks are quarantined. */
  foreignDomains: string[];
  foreignDisks: string[];
  /** In the ledger as running on this host, and not there. */
  missing: VmId[];
  /** On the host; in the ledger removed, on another host, or with a newer generation: to be removed. */
  leftovers: { vmId: VmId; generation: number }[];
  /** Of VMs that run elsewhere and have their disks here: to be cleaned up as after a migration. Absent in histories of before. */
  departed?: { vmId: VmId; generation: number }[];
  /**
   * VMs that an operator has ended, or that left the host by an operator's word: to be removed, and then confirmed (liftFence).
   * `keepsDisks`: of its domain alone. Absent in histories of before.
   */
  fenced?: { vmId: VmId; generation: number; keepsDisks: boolean }[];
}

/** VMs whose domains may be compared with the ledger, each with its generation, and those on which something is at work. */
export interface DomainTargets {
  settled: { vmId: VmId; generation: number }[];
  busy: VmId[];
}

/** What a host observed of a domain, and the generation that its VM had before. */
export interface DomainFinding extends DomainReport {
  generation: number;
}

export interface HostLedger {
  /** Writes a host's facts, marks it up, and places what waits. */
  registerHost(facts: HostFacts): Promise<Notification[]>;
  markHostUnreachable(id: HostId): Promise<void>;
  /** Which of these VMs are at this host and in a state that a domain may change without Berth; others are left out. */
  loadDomainTargets(id: HostId, vmIds: VmId[]): Promise<DomainTargets>;
  /**
   * Writes what their domains do: states `running`, `paused`, `stopped` and `crashed`, with their events. A VM whose
   * generation has changed since is left as it is. @returns the VMs that have changed, and those to look at again
   */
  recordDomains(id: HostId, findings: DomainFinding[]): Promise<{ changed: VmId[]; again: VmId[] }>;
  /** The time by the ledger's clock, RFC 3339. */
  readClock(): Promise<string>;
  /**
   * Compares a host's inventory with the ledger, and deletes rows of images that have left its cache. With `askedAt`, the
   * ledger's time before the host was asked, it compares their clocks as well.
   */
  compareHost(id: HostId, found: HostInventory, askedAt?: string): Promise<HostDifference>;
  /** Nothing of a fenced VM is left on the host: frees what it took there. */
  liftFence(host: HostId, vm: VmId): Promise<Notification[]>;
}
