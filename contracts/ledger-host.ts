import type { HostFacts, HostInventory } from '../model/host.ts';
import type { HostId, VmId } from '../model/ids.ts';
import type { Notification } from './ledger-placement.ts';

export interface HostDifference {
  /** On the host, without a row: a domain is reported, disks are quarantined. */
  foreignDomains: string[];
  foreignDisks: string[];
  /** In the ledger as running on this host, and not there. */
  missing: VmId[];
  /** On the host; in the ledger removed, on another host, or with a newer generation: to be removed. */
  leftovers: { vmId: VmId; generation: number }[];
}

export interface HostLedger {
  /** Writes a host's facts, marks it up, and places what waits. */
  registerHost(facts: HostFacts): Promise<Notification[]>;
  markHostUnreachable(id: HostId): Promise<void>;
  /** Compares a host's inventory with the ledger, and deletes rows of images that have left its cache. */
  compareHost(id: HostId, found: HostInventory): Promise<HostDifference>;
}
