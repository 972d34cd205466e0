import type { VmId } from '../model/ids.ts';
import type { DomainCondition } from '../model/vm.ts';

export type DomainState = 'running' | 'paused' | 'shutdown' | 'shutoff' | 'crashed' | 'pmsuspended';

export interface DomainStatus {
  state: DomainState;
  /** libvirt's reason, e.g. `booted`, `migrating`, `user`. */
  reason: string;
}

/**
 * How the last domain of a name ended, by its hypervisor's own log. `left`: its memory was saved, or it migrated; `unknown`:
 * it began, and nothing is said of its end, as after a power cut. Times in ms since 1970.
 */
export interface DomainEnd {
  how: 'poweredOff' | 'crashed' | 'destroyed' | 'left' | 'unknown';
  startedMs: number | null;
  endedMs: number | null;
}

/** What a host observes of one VM's domain. */
export interface DomainReport {
  vmId: VmId;
  condition: DomainCondition;
}

export type DiskSource = { kind: 'file'; path: string } | { kind: 'nfs'; host: string; path: string };

export interface DomainDisk {
  target: string;
  format: 'qcow2' | 'raw';
  /** A local path, or an NFS path at another host with its backing chain. */
  source: DiskSource;
  backing: { format: 'qcow2' | 'raw'; source: DiskSource }[];
}

/** What a guest's memory is made of. */
export type GuestMemory =
  | { kind: 'own' }
  /** A shared file: a template that is being built. */
  | { kind: 'template'; file: string }
  /** A template's file, of which each page is copied when it is written to. `qmpScript`: QMP commands at QEMU's start. */
  | { kind: 'copy'; file: string; qmpScript: string };

export interface DomainConfig {
  name: string;
  uuid: string;
  vcpus: number;
  memoryMiB: number;
  /** The guest has 8 KiB less than `memoryMiB`: under emulation its written pages are logged rightly then (docs/decisions/0112). */
  unalignedMemory: boolean;
  memory: GuestMemory;
  accelerator: 'kvm' | 'qemu';
  /** null: the firmware boots the first disk, and there is no command line. */
  kernel: string | null;
  initrd: string | null;
  cmdline: string;
  disks: DomainDisk[];
  /** A drive for a disc, and what is in it; null: no drive. */
  cdrom: { iso: string | null } | null;
  /** `bridge` null: the network device is not connected. */
  nic: { mac: string; tap: string; bridge: string | null; mtu: number };
  consoleLog: string;
  /** QEMU's end of the serial port, for what is typed. */
  consoleSocket: string;
  /** QEMU's end of the port at which a guest from a template waits for its identity. */
  identitySocket: string;
  /** QEMU's end of the port of the program that runs clients' sessions; null: devices of an earlier version. */
  streamSocket: string | null;
  onReboot: 'restart' | 'destroy';
  /** By it the hypervisor learns that the guest's kernel has panicked. */
  panicDevice: boolean;
}
