/**
 * What Berth needs of a host, as ports. drivers/ has the real ones, drivers/fake the strict fake that enforces
 * the same preconditions; test/contract runs one suite against both.
 */
export type DomainState = 'running' | 'paused' | 'shutdown' | 'shutoff' | 'crashed' | 'pmsuspended';

export interface DomainStatus {
  state: DomainState;
  /** libvirt's reason, e.g. `booted`, `migrating`, `user`. */
  reason: string;
}

export interface DomainDisk {
  target: string;
  format: 'qcow2' | 'raw';
  /** A local path, or an NFS path at another host with its backing chain. */
  source: { kind: 'file'; path: string } | { kind: 'nfs'; host: string; path: string };
  backing: { format: 'qcow2' | 'raw'; source: { kind: 'file'; path: string } | { kind: 'nfs'; host: string; path: string } }[];
}

export interface DomainConfig {
  name: string;
  uuid: string;
  vcpus: number;
  memoryMiB: number;
  accelerator: 'kvm' | 'qemu';
  kernel: string;
  initrd: string;
  cmdline: string;
  disks: DomainDisk[];
  nic: { mac: string; tap: string; bridge: string };
  consoleLog: string;
}

export interface Hypervisor {
  /** null when there is no such domain. Throws `host-busy` when the hypervisor doesn't answer in time. */
  status(name: string): Promise<DomainStatus | null>;
  list(): Promise<{ name: string; uuid: string; status: DomainStatus }[]>;
  /** Starts a transient domain. `not-ours` when name, uuid, MAC or tap are in use by another. */
  create(config: DomainConfig): Promise<void>;
  /** Ends it at once; success when it is gone, also when it already was. */
  destroy(name: string): Promise<void>;
  suspendCpus(name: string): Promise<void>;
  resumeCpus(name: string): Promise<void>;
  /** The version string, e.g. `QEMU 10.0.3, libvirt 11.3.0`. */
  version(): Promise<string>;
}

export interface GuestAgent {
  ping(domain: string): Promise<boolean>;
  /** Starts a program in the guest with `input` on its standard input; waits for it to `deadlineMs`. */
  exec(
    domain: string,
    argv: string[],
    options: { input?: Buffer; deadlineMs: number },
  ): Promise<{ exitCode: number; stdout: Buffer; stderr: Buffer }>;
  /** Reads up to `limit` bytes of a file in the guest from an offset; null when there is no such file. */
  readFile(domain: string, path: string, from: number, limit: number): Promise<Buffer | null>;
}

export interface DiskTool {
  /** A qcow2 overlay of `virtualMiB` on a backing file. */
  createOverlay(path: string, backing: string, virtualMiB: number): Promise<void>;
  /** An ext4 image of exactly `sizeMiB` with the content of a folder; throws `inputs-too-large`. */
  createDataDisk(path: string, folder: string, sizeMiB: number): Promise<void>;
  /** Regular files of an ext4 image, read in user space; never mounted. Symlinks and devices are left out. */
  listFiles(image: string): Promise<{ path: string; inode: number; sizeBytes: number }[]>;
  /** The content of one file of an ext4 image, as a stream. */
  readFile(image: string, inode: number): Promise<NodeJS.ReadableStream>;
}

export interface HostNetwork {
  /** The owner's bridge and VXLAN on this host; idempotent; returns the bridge's name. */
  ensureNetwork(network: { vni: number; cidr: string; gateway: string; peers: string[] }): Promise<string>;
  /** Removes networks on which no tap is left. */
  removeIdleNetworks(): Promise<void>;
  list(): Promise<{ bridge: string; vni: number; taps: string[] }[]>;
}
