import type { HostId, ImageId, OwnerId, VmId } from './ids.ts';

/** A file by its content. `url` is short-lived and signed; it is how a host reads it from the repository. */
export interface ContentRef {
  sha256: string;
  sizeBytes: number;
  url: string;
}

/** An image as a host needs it: what it consists of, and which peers have it. */
export interface ImageRef {
  id: ImageId;
  name: string;
  digest: string;
  virtualMiB: number;
  cmdline: string;
  /** Its guests have cloud-init, and look for a seed when they first boot. */
  cloudInit: boolean;
  /** Without a kernel and an initrd it boots by its disk, as the firmware finds it. Both or neither. */
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
  /** Addresses of the other hosts of the site, to which broadcast frames are flooded. */
  peers: string[];
}

/** Everything a host needs to make one VM. The generation is that of this placement. */
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
  /** `destroy` where a guest that boots again has lost what it was made for: a task's. */
  onReboot: 'restart' | 'destroy';
  /** Names that this guest can resolve: its siblings' (and its own). */
  neighbours: { name: string; address: string }[];
}

/** What a VM is seen to do with its memory, and with its processors. null: the hypervisor doesn't say. */
export interface VmLoad {
  /** What its process holds of the machine's memory. */
  residentMiB: number | null;
  /** Distinct memory written in a second. */
  dirtyMiBPerS: number | null;
  /** Processors that it keeps busy: seconds of their time in a second. */
  busyCpus: number | null;
}

/**
 * Why a VM booted by itself. `no-template`: none was made of its image in its size yet; `template-failed`: one was tried,
 * and didn't start; `template-retired`: it has failed too often; `used-disk`: it goes on with a disk that it has used;
 * `cloud-init`: its image is told who it is as it boots; `extra-disks`: no template has disks of that kind.
 */
export const coldBootReasons = [
  'no-template',
  'template-failed',
  'template-retired',
  'used-disk',
  'cloud-init',
  'extra-disks',
] as const;

/** How a VM came to life: from a template's memory, or by a boot of its own. */
export type Boot = { kind: 'warm' } | { kind: 'cold'; why: (typeof coldBootReasons)[number] };
