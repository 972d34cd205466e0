import type { HostId, VmId } from './ids.ts';

/** What VMs take from a host, and what a host has. Memory and disk in MiB (2^20 bytes). */
export interface Resources {
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
}

/** What a host worker measured of its machine; never configured, except `reserve`. */
export interface HostFacts {
  hostId: HostId;
  /** Address on the hosts' network: NFS, migration, VXLAN. */
  address: string;
  provider: string;
  capacity: Resources;
  /** Kept back for the host itself; capacity less this is what VMs may take. */
  reserve: Resources;
  cpuModel: string;
  /** `kvm` where a guest was seen to run on it, else `qemu` (TCG). */
  accelerator: 'kvm' | 'qemu';
  hypervisor: string;
  /** Ids of the images in this host's cache. */
  images: string[];
  bootId: string;
  /** With which it joins a provider that somebody owns. */
  joinToken?: string | undefined;
  /** How long ago the machine was booted. Absent: the worker is of an earlier version. */
  bootedAgoMs?: number;
  /** Which machine this is: its machine-id, and a number that was drawn on its disk. Absent: the worker is older. */
  machine?: string;
  /** How many machines the site has, as the worker knows it: its heartbeats get rarer with them. Absent: it does not know yet. */
  siteMachines?: number;
}

/** What a host has, as against what the ledger says it should have. */
export interface HostInventory {
  domains: { name: string; vmId: VmId | null; state: string }[];
  /** `departure`: the target generation of a migration from this host, begun or done, after which it was not cleaned up. */
  disks: { vmId: string; generation: number | null; bytes: number; departure?: number }[];
  taps: string[];
  networks: string[];
  quarantined: string[];
  /** Ids of the images in its cache. */
  images: string[];
  /** Its clock, in ms since 1970. Absent: the worker is of an earlier version. */
  clockMs?: number;
}

/** A host whose clock is off by more than this gets no new work: what it reports of times can't be relied on. */
export const clockToleranceMs = 2000;

/** Conditions of a host that an operator has to mend. */
export const hostConditions = ['clockOff'] as const;
