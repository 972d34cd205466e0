import type { ErrorCode } from './errors.ts';
import type { HostId, ImageId, OwnerId, VmId } from './ids.ts';

/** A file by its content. `url` is short-lived and signed; it is how a host reads it from the repository. */
export interface ContentRef {
  sha256: string;
  sizeBytes: number;
  url: string;
}

/** An image for a host: its parts, and the peers that have it. */
export interface ImageRef {
  id: ImageId;
  name: string;
  digest: string;
  virtualMiB: number;
  cmdline: string;
  /** Its guests have cloud-init, and read a seed at their first boot. */
  cloudInit: boolean;
  /** Without kernel and initrd the firmware boots the disk. Both or neither. */
  parts: { disk: ContentRef; kernel: ContentRef | null; initrd: ContentRef | null };
  /** Addresses of hosts that are known to have it, nearest first. */
  peers: string[];
}

/**
 * An owner's layer-2 segment: a VXLAN on the hosts' network with a bridge at each host that has a guest on it.
 * Every host's bridge carries the same gateway address and MAC, so a guest keeps both when it moves.
 */
export interface NetworkRef {
  vni: number;
  /** CIDR of the owner's guests, e.g. 10.128.4.0/22. */
  cidr: string;
  gateway: string;
}

/**
 * Which devices a domain has. 1: those of the first versions; 2: a panic device as well, by which the hypervisor learns that
 * the guest's kernel has panicked; 3: the port of the program that runs clients' sessions; 4: under emulation, a memory whose
 * size QEMU's log of written pages is right for. A running domain, and saved memory, need the devices that they began with, so
 * the ledger keeps each VM's version; a boot of a new domain takes the current one.
 */
export const machineVersions = [1, 2, 3, 4] as const;
export type MachineVersion = (typeof machineVersions)[number];
export const currentMachine: MachineVersion = 4;

/** All that a host needs to create one VM. The generation is that of this placement. */
export interface VmSpec {
  id: VmId;
  owner: OwnerId;
  /** Host name inside the guest and in the site's names: a DNS label. */
  name: string;
  generation: number;
  host: HostId;
  /** The host whose disk holds its image; where it is not `host`, that one opens it over NFS. */
  home: HostId;
  image: ImageRef;
  vcpus: number;
  memoryMiB: number;
  /** Of the data disk, and of the root disk: the image's own size, or more. */
  diskMiB: number;
  rootMiB: number;
  /** Of further disks, empty at first: /dev/vdc and so on in the guest. */
  extraDisksMiB: number[];
  network: NetworkRef;
  address: string;
  mac: string;
  /** Absent in the orders of earlier versions: 1. */
  machine?: MachineVersion;
  /** `destroy` for a task's VM: after a reboot its command is lost. */
  onReboot: 'restart' | 'destroy';
  /** Names that this guest can resolve: its siblings' (and its own). */
  neighbours: { name: string; address: string }[];
}

/** A VM's load, as its host observes it. null: the hypervisor does not report it. */
export interface VmLoad {
  /** Resident memory of its process. */
  residentMiB: number | null;
  /** Rate of distinct memory written. */
  dirtyMiBPerS: number | null;
  /** Processor time in seconds per second. */
  busyCpus: number | null;
}

/**
 * Why a VM had a cold boot. `no-template`: there is none of its image and size yet; `template-failed`: a template was used,
 * and didn't start; `template-retired`: it has failed too often; `used-disk`: the VM continues with its own disk;
 * `cloud-init`: its image gets its identity while it boots; `extra-disks`: no template has disks of that kind.
 */
export const coldBootReasons = [
  'no-template',
  'template-failed',
  'template-retired',
  'used-disk',
  'cloud-init',
  'extra-disks',
] as const;

/** How a VM was started: from a template's memory (warm), or by a boot of its own (cold). */
export type Boot = { kind: 'warm' } | { kind: 'cold'; why: (typeof coldBootReasons)[number] };

/**
 * Who has stopped a guest's processors. `ioError`: its hypervisor, because the host's disk took no more of its writes;
 * `operator`: somebody at the host, past Berth; `guest`: it has suspended itself to memory.
 */
export const pausedByParties = ['owner', 'ioError', 'operator', 'guest'] as const;
export type PausedBy = (typeof pausedByParties)[number];

/**
 * Why a domain has ended without Berth's doing. `crashed`: its guest panicked, or its QEMU died; `hostRestarted`: with the
 * machine that it ran on; `ended`: somebody at the host ended it, or it is not known.
 */
export type EndCause = 'poweredOff' | 'crashed' | 'hostRestarted' | 'ended';

/** What its owner reads of an end. */
export const endings = {
  poweredOff: { code: 'powered-off', says: 'Its guest powered itself off' },
  crashed: { code: 'guest-crashed', says: 'Its guest panicked, or its QEMU ended by itself; its console may say why' },
  hostRestarted: { code: 'host-restarted', says: 'Its host was restarted' },
  ended: { code: 'vm-lost', says: 'Its domain was ended on its host, and not by Berth' },
} as const satisfies Record<EndCause, { code: ErrorCode; says: string }>;

/** Whether an error says that the VM's domain has ended: then no repetition of the act can succeed. */
export const saysDomainEnded = (code: ErrorCode): boolean => Object.values(endings).some((ending) => ending.code === code);

/** The state of a standalone VM whose domain has ended: `crashed` for what neither its owner nor an operator has ordered. */
export const stateAfterEnd = ({ code }: { code: ErrorCode }): 'stopped' | 'crashed' =>
  code === endings.crashed.code || code === 'boot-failed' ? 'crashed' : 'stopped';

/**
 * What a VM's domain does, as its host observes it. `answers`: whether the guest's agent does; absent: it was not asked.
 * `agoMs`: how long ago it ended, by the host's clock; null: unknown.
 */
export type DomainCondition =
  | { kind: 'running'; answers?: boolean }
  | { kind: 'paused'; by: PausedBy }
  | { kind: 'gone'; cause: EndCause; agoMs: number | null };
