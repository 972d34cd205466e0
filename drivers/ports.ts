import type { Readable } from 'node:stream';
import type { ConsoleRange } from '../model/console.ts';
import type { HostFacts } from '../model/host.ts';
import type { ImageId, VmId } from '../model/ids.ts';
import type { ColdCopyPass, MigrationJob } from '../model/migration.ts';
import type { Boot, ImageRef, NetworkRef, VmLoad } from '../model/vm.ts';

/**
 * What Berth needs of a host, as ports: every effect of activities/host goes through one of these. drivers/ has the
 * real ones, drivers/fake the strict fake that enforces the same preconditions; test/contract runs one suite against
 * both. Errors are BerthErrors; sizes are in bytes unless the name says MiB (2^20 bytes); times in ms since 1970.
 */
export interface HostPorts {
  clock: Clock;
  store: VmStore;
  imageCache: ImageCache;
  templates: Templates;
  inputFetcher: InputFetcher;
  repository: Repository;
  diskTool: DiskTool;
  network: HostNetwork;
  hypervisor: Hypervisor;
  migrator: Migrator;
  diskMover: DiskMover;
  coldCopy: ColdCopy;
  guest: Guest;
  probe: HostProbe;
}

export interface Clock {
  nowMs(): number;
  /** Rejects with the signal's reason when that aborts first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** What a host remembers of a VM, in its vm.json: written atomically, before anything that it describes. */
export interface VmRecord {
  vmId: VmId;
  /** The highest generation that any order for this VM carried. */
  generation: number;
  image: ImageId;
  vni: number;
  /** Set once data.raw is complete. */
  staged: { bytes: number } | null;
  /** Set once the guest has its identity; cleared before a domain is created. */
  ready: { createMs: number; bootMs: number; sinceMs: number } | null;
  /** Set before the task's command is started. */
  jobStartedMs: number | null;
  /** Set once the guest's writes are on data.raw and no more can follow. */
  flushed: boolean;
  /** How its domain was last started, and why so. Written before it is asked for. */
  boot: Boot | null;
  /** Set once a guest was given its identity on this overlay: from then on what is there is its own. */
  identityApplied: boolean;
  /** The removal has begun: nothing of this generation may be made any more. */
  removing: boolean;
  /** The generation with which this VM leaves, or left, for another host: its end here is no loss. */
  departureGeneration: number | null;
  /**
   * Set before its memory is saved, and `saved` once the file is whole. Cleared before a restored guest executes its
   * first instruction: what is in the file may then never be used again.
   */
  suspended: { sinceMs: number; complete: boolean } | null;
  /** Since when its processors are stopped on demand; null while they aren't. */
  pausedSinceMs: number | null;
  /** How long it has been suspended or paused so far: what a command's time is not counted in. */
  idleMs: number;
  /** Its disks were copied here completely, and it goes on with the copies: they count, whatever the ledger says yet. */
  disksLocal: boolean;
}

export interface VmPaths {
  folder: string;
  overlay: string;
  data: string;
  console: string;
  identitySocket: string;
  /** Where inputs are collected before they become data.raw. */
  inputs: string;
  /** The memory of a suspended VM, and where it is written before it is whole. */
  memory: string;
  memoryPartial: string;
  /** Of a VM that becomes a template. */
  templateMemory: string;
  templateState: string;
  /** What cloud-init reads at the first boot. */
  seed: string;
  /** What a build left, as one disk, on its way to the repository. */
  flat: string;
}

/** The folders of VMs on this host's disk, and what is remembered of VMs that are gone. */
export interface VmStore {
  paths(vmId: string): VmPaths;
  /** null when this host has no such VM. */
  read(vmId: string): Promise<VmRecord | null>;
  /** Atomic and durable; makes the VM's folder when it isn't there. For generations: they outlive the machine's power. */
  writeDurably(record: VmRecord): Promise<void>;
  /** Atomic; a power cut may bring back the record before it. For what ends with the power anyway, as a domain does. */
  writeNonDurable(record: VmRecord): Promise<void>;
  /** An empty folder for inputs; what an earlier attempt left there is gone. */
  resetInputs(vmId: string): Promise<string>;
  removeInputs(vmId: string): Promise<void>;
  /** Brings memoryPartial to the disk and to its place; nothing happens where it is there already. */
  commitMemory(vmId: string): Promise<void>;
  /** Removes saved memory, whole or not. */
  removeMemory(vmId: string): Promise<void>;
  /** What the saved memory takes; 0 where there is none. */
  memoryBytes(vmId: string): Promise<number>;
  /** Some bytes of its console's log, the older file of which goes before; null where it has none. */
  readConsole(vmId: string, range: ConsoleRange): Promise<{ from: number; totalBytes: number; bytes: Buffer } | null>;
  /** What is free for this process on the disk that the VMs' folders are on. */
  freeMiB(): Promise<number>;
  list(): Promise<{ vmId: string; record: VmRecord | null; bytes: number }[]>;
  /** Remembers for a day that this VM was removed with this generation, then removes its folder; repeatable. */
  remove(vmId: string, generation: number): Promise<void>;
  /** The generation with which a VM was removed here; null when it wasn't. */
  removedGeneration(vmId: string): Promise<number | null>;
  /** Moves a VM's folder out of use. Nothing happens when it isn't there. */
  quarantine(vmId: string): Promise<void>;
  listQuarantined(): Promise<{ vmId: string; sinceMs: number }[]>;
  removeQuarantined(vmId: string): Promise<void>;
}

export interface CachedImage {
  disk: string;
  /** null where the image boots by its disk. */
  kernel: string | null;
  initrd: string | null;
}

export interface ImageCache {
  /** At once when it is there; one transfer however many ask. `image-damaged`, `input-unavailable`, `disk-full`. */
  ensure(image: ImageRef, signal: AbortSignal): Promise<{ from: 'cache' | 'peer' | 'repository'; bytes: number }>;
  /** Paths of an image in the cache, which count as a use of it; null when it isn't there. */
  find(id: ImageId): Promise<CachedImage | null>;
  list(): Promise<ImageId[]>;
  /** Keeps an image that is there until this moment, whatever the budget says; a later one that was said before holds. */
  pin(id: ImageId, untilMs: number): Promise<void>;
  /** Drops what was not used for long until this much fits as well; returns whether it does. */
  evictToFit(bytes: number): Promise<boolean>;
  /** Removes an image and all that was made of it; `in-use` while a VM of this host needs it. Success when it isn't there. */
  remove(id: ImageId): Promise<void>;
}

/** A machine that was booted once from an image and saved with its memory: what others of its kind start from. */
export interface Template {
  image: ImageId;
  /** Which machines start from it: their size, hardware, hypervisor and processor. */
  key: string;
  /** The overlay as it was at that moment; a VM gets a copy. */
  disk: string;
}

/** Where a machine that becomes a template has its parts: all on the disk that holds the images. */
export interface TemplateParts {
  disk: string;
  /** Its memory, as a file that its guest writes to. */
  memory: string;
  /** To be written: the state of its processors and devices. */
  state: string;
}

/**
 * Templates, beneath their images: complete, sealed, and gone with their image. What starts from one maps its memory and
 * copies each page at the first write, so that it shares the rest with its siblings.
 */
export interface Templates {
  computeKey(config: DomainConfig): Promise<string>;
  /** Counts as a use. `retired`: it failed too often, and no other is to be made. */
  find(image: ImageId, key: string): Promise<Template | 'none' | 'retired'>;
  /** Saves a running domain, which ends with that, and makes a template of it; one that is there already stays. */
  save(image: ImageId, key: string, config: DomainConfig, parts: TemplateParts): Promise<{ bytes: number }>;
  /**
   * Starts a domain from a template: a guest that runs where the template stopped, with the template's identity. Its
   * first disk must be a copy of the template's. `hypervisor` when it can't be restored; then there is no domain.
   */
  startDomain(config: DomainConfig, template: Template): Promise<void>;
  /** A guest that started from it came up, or didn't. Returns whether that was one failure too many. */
  recordOutcome(template: Template, outcome: 'started' | { failed: string }): Promise<'kept' | 'retired'>;
  list(): Promise<{ image: ImageId; key: string; bytes: number }[]>;
}

export interface FetchRequest {
  url: string;
  source: 'repository' | 'outside';
  sizeBytes: number | null;
  sha256: string | null;
  /** An absolute path, whose folder the fetcher makes. */
  destination: string;
  /** The most that this one may have. */
  limitBytes: number;
  limitSeconds: number;
  allowInternal: boolean;
}

export interface InputFetcher {
  /** `input-unavailable`, `address-refused`, `digest-mismatch`, `inputs-too-large`, `disk-full`. */
  fetch(order: FetchRequest, signal: AbortSignal): Promise<{ sizeBytes: number; sha256: string }>;
}

/** The repository as a host writes to it: by signed URLs alone. */
export interface Repository {
  /** Stores one output; repeating replaces. The stream is read once, to `sizeBytes`. */
  storeOutput(
    url: string,
    path: string,
    sizeBytes: number,
    content: Readable,
    signal: AbortSignal,
  ): Promise<{ file: string; sizeBytes: number; sha256: string }>;
  /** Appends to a live log at an offset, and returns how many bytes the log has: fewer than `from` when there'd be a gap. */
  appendLog(url: string, from: number, bytes: Buffer, signal: AbortSignal): Promise<number>;
}

export interface DiskTool {
  /** Whether a disk is there, complete: makers rename it to its place when it is done. */
  exists(path: string): Promise<boolean>;
  /** A qcow2 overlay of `virtualMiB` on a backing file. */
  createOverlay(path: string, backing: string, virtualMiB: number): Promise<void>;
  /** The overlay of a template, for a VM that starts from it, with at least `virtualMiB`. Replaces what is there. */
  copyOverlay(path: string, from: string, virtualMiB: number): Promise<void>;
  /** A file of zeros, or nothing but a hole. */
  createEmpty(path: string, sizeMiB: number): Promise<void>;
  /** Success also when it isn't there. */
  remove(path: string): Promise<void>;
  /** An ext4 image of exactly `sizeMiB` with the content of a folder; `inputs-too-large`, `disk-full`. */
  createDataDisk(path: string, folder: string, sizeMiB: number): Promise<void>;
  /**
   * Regular files of an ext4 image that a guest wrote, read in user space, never mounted. Symlinks, devices and
   * lost+found are left out. Names are as the guest wrote them: check them. `outputs-refused` for what isn't a sound file system.
   */
  listFiles(image: string, limitFiles: number): Promise<DiskFile[]>;
  /** The content of one listed file, exactly its `sizeBytes`. */
  readFile(image: string, file: DiskFile): Readable;
  /**
   * What an uploaded disk is, by its own header alone. `image-refused` for one that leads to another file, is encrypted,
   * has snapshots, is malformed, or has more than `limitMiB`.
   */
  inspect(path: string, limitMiB: number): Promise<{ format: 'qcow2' | 'raw'; virtualMiB: number }>;
  /** Writes all that a disk shows anew, as a qcow2 that needs no other; `image-refused` when that leads beyond its bounds. */
  flatten(order: FlattenRequest, signal: AbortSignal): Promise<void>;
  /** A whole disk as bytes. */
  readDisk(path: string): Promise<{ sizeBytes: number; content: Readable }>;
}

export interface FlattenRequest {
  source: string;
  /** What it is; nothing is guessed from its content. */
  format: 'qcow2' | 'raw';
  destination: string;
  /** The most that the new disk may show. */
  limitMiB: number;
}

export interface DiskFile {
  path: string;
  inode: number;
  sizeBytes: number;
}

export interface HostNetwork {
  /** The owner's bridge and VXLAN on this host, and its peers; idempotent; returns the bridge's name. */
  ensure(network: NetworkRef): Promise<string>;
  /**
   * Removes an owner's bridge and VXLAN where no tap is left on it and nobody is about to put one there: `needed` is
   * asked while no `ensure` of this network can run.
   */
  removeIfIdle(vni: number, needed: () => Promise<boolean>): Promise<void>;
  list(): Promise<{ bridge: string; vni: number; taps: string[] }[]>;
}

export type DomainState = 'running' | 'paused' | 'shutdown' | 'shutoff' | 'crashed' | 'pmsuspended';

export interface DomainStatus {
  state: DomainState;
  /** libvirt's reason, e.g. `booted`, `migrating`, `user`. */
  reason: string;
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
  /** A file that keeps what the guest wrote: a template in the making. */
  | { kind: 'template'; file: string }
  /** A template's file, of which each page is copied when it is written to. `prelude`: what QEMU is told as it starts. */
  | { kind: 'copy'; file: string; qmpScript: string };

export interface DomainConfig {
  name: string;
  uuid: string;
  vcpus: number;
  memoryMiB: number;
  memory: GuestMemory;
  accelerator: 'kvm' | 'qemu';
  /** null: the firmware boots the first disk, and there is no command line. */
  kernel: string | null;
  initrd: string | null;
  cmdline: string;
  disks: DomainDisk[];
  /** A drive for a disc, and what is in it; null: no drive. */
  cdrom: { iso: string | null } | null;
  /** `bridge` null: a network device that leads nowhere. */
  nic: { mac: string; tap: string; bridge: string | null; mtu: number };
  consoleLog: string;
  /** QEMU's end of the port at which a guest from a template waits for its identity. */
  identitySocket: string;
  onReboot: 'restart' | 'destroy';
}

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

export interface MigrationRequest {
  /** The domain as the target is to have it: the same machine, its disks from where they are. */
  config: DomainConfig;
  /** Address of the target on the hosts' network. */
  targetAddress: string;
  /** When the hypervisor's client is given up; the migration itself goes on. */
  deadlineMs: number;
}

/**
 * Live migration, as the source's host works on it. The guest arrives paused, and is resumed only when the source is
 * known to be gone: so no lost contact makes two of it.
 */
export interface Migrator {
  /**
   * Moves a domain's memory, to its end; returns what the hypervisor said of it. That is no evidence of where the VM
   * is: ask both hosts. `host-busy` when it said nothing.
   */
  migrate(order: MigrationRequest): Promise<void>;
  /** The job of a domain that leaves this host; null where there is no domain, `active: false` where it has no job. */
  observeJob(name: string): Promise<MigrationJob | null>;
  /** Ends a migration from here; harmless where there is none. */
  abort(name: string): Promise<void>;
  setMaxDowntime(name: string, ms: number): Promise<void>;
  /** What a domain does with its memory and processors, looked at for a second; null where there is no domain that runs. */
  measureLoad(name: string): Promise<VmLoad | null>;
  /** Time of processors that a domain has used since it came here; null where there is none, or the hypervisor doesn't say. */
  readCpuSeconds(name: string): Promise<number | null>;
  /** Watches the process of a domain of this host; null where there is none. */
  watchProcess(name: string): Promise<ProcessHandle | null>;
  /** The other host, asked from here, for the moment of the switch. */
  openPeer(address: string): PeerHypervisor;
}

/** The process that a domain is. Once it has ended, the domain executes nothing, whatever the hypervisor still says of it. */
export interface ProcessHandle {
  hasEnded(): boolean;
  /** Resolves as soon as it has ended; rejects with the signal's reason when that aborts first. */
  waitForEnd(signal: AbortSignal): Promise<void>;
}

export interface PeerHypervisor {
  /** Begins to connect, for whoever will be in a hurry; how that goes is seen by the first question. */
  connect(): void;
  status(name: string): Promise<DomainStatus | null>;
  resume(name: string): Promise<void>;
  close(): void;
}

export type ColdCopyFile = 'memory' | 'overlay' | 'data' | `extra-${number}`;

/** A VM that doesn't run, as files that go from host to host. */
export interface ColdCopy {
  /** Writes down, for whoever packs for this host, what it still has of an earlier version. */
  offerCachedChunks(vmId: VmId): Promise<{ chunks: number }>;
  /** Makes the pack: what `offer` names is left out. */
  pack(
    vmId: VmId,
    files: readonly ColdCopyFile[],
    offer: { address: string; chunks: number } | null,
  ): Promise<{ bytes: number; totalBytes: number }>;
  /** How far what is just being packed, fetched or unpacked of a VM is; null where nothing is. */
  observePass(vmId: VmId): Promise<ColdCopyPass | null>;
  /** Fetches another host's pack and makes its files here, in their places; `disk-full`. */
  unpack(vmId: VmId, pack: { address: string; bytes: number }): Promise<void>;
  /** Puts files of a VM that went elsewhere aside as an earlier version, within a budget. */
  keepPreviousVersion(vmId: VmId, files: readonly ColdCopyFile[]): Promise<void>;
  /** Removes pack and offer. */
  removeTransferFiles(vmId: VmId): Promise<void>;
  /** Removes all of that. */
  removeAll(vmId: VmId): Promise<void>;
}

export interface CopyJob {
  copiedBytes: number;
  totalBytes: number;
  /** All is copied, and what the guest writes goes to both. */
  ready: boolean;
}

/** Copies disks of a live domain to this host, and lets it go on with the copies. */
export interface DiskMover {
  /** From where a domain has each of its disks open, by target. */
  readSources(name: string): Promise<Map<string, DiskSource>>;
  /** Begins to copy a disk into the file `disk.source`, which is there. */
  startCopy(name: string, disk: DomainDisk): Promise<void>;
  /** null where no copy is at work. */
  observeCopy(name: string, target: string): Promise<CopyJob | null>;
  /** From now on the domain works with the copy alone. */
  pivot(name: string, target: string): Promise<void>;
  /** Ends a copy, which is of no use then; harmless where there is none. */
  abortCopy(name: string, target: string): Promise<void>;
}

export interface GuestIdentity {
  /**
   * What it has to be given because it has just come to be: after its first boot, host keys of its own; from a template
   * in addition its network card's address and a boot id. null: it has them, and keeps them.
   */
  firstBootKind: Boot['kind'] | null;
  mac: string;
  hostname: string;
  /** 32 hexadecimal digits. */
  machineId: string;
  address: string;
  /** CIDR of the network that `address` is in. */
  cidr: string;
  gateway: string;
  neighbours: { name: string; address: string }[];
  timeMs: number;
}

/** What a guest that lasts is made, after it has its identity. */
export interface GuestSetup {
  hostKey: { private: string; public: string };
  user: { name: string; sshKey: string } | null;
  files: { from: string; path: string; mode: string }[];
  firstBoot: string[];
  swapMiB: number;
}

export interface GuestJob {
  argv: string[];
  env: Record<string, string>;
  /** After this the guest itself ends the command, first with TERM, then with KILL. */
  timeoutS: number;
  logLimitBytes: number;
}

export type JobResult =
  | {
      kind: 'exited';
      exitCode: number;
      timedOut: boolean;
      stopped: boolean;
      seconds: number;
      /** The length of the complete log; null where only reading it tells. */
      logBytes: number | null;
    }
  /** There is no such program, or it cannot be executed. */
  | { kind: 'notStarted'; why: string };

/**
 * A running guest, through its agent. `vm-lost` when the domain is gone, `host-busy` when the agent doesn't answer
 * in time, `hypervisor` when it refuses.
 */
export interface Guest {
  /** Writes the disc from which cloud-init takes the guest's name and network at its first boot. */
  writeSeed(path: string, identity: GuestIdentity): Promise<void>;
  /** Waits until cloud-init has done its part of a boot; at once where there is none. */
  awaitCloudInit(domain: string): Promise<void>;
  /** Whether the agent answers now. */
  ping(domain: string): Promise<boolean>;
  /** Waits until its boot has settled and brings it to a state from which others can start; `boot-failed` when it can't be. */
  quiesce(domain: string): Promise<void>;
  /** Gives the guest its name, address and clock, and mounts the data disk at /home/task; repeatable. */
  applyIdentity(domain: string, identity: GuestIdentity): Promise<void>;
  /** Makes a guest what was ordered, also for its later boots; repeatable, the first boot's commands run once. */
  setUp(domain: string, identity: GuestIdentity, setup: GuestSetup): Promise<void>;
  /** Starts the job, unless one was started in this guest before. It outlives this process. */
  startJob(domain: string, job: GuestJob): Promise<void>;
  /** Whether one was started in this guest, asked without starting a program there; a moment after its start it may yet be no. */
  hasJob(domain: string): Promise<boolean>;
  /** null as long as the job runs. */
  observeJob(domain: string): Promise<JobResult | null>;
  /** Up to `limit` bytes of the job's log from an offset; empty at its end. */
  readLog(domain: string, from: number, limit: number): Promise<Buffer>;
  /** Ends the job and all it started; where none was started, none can be any more. */
  stopJob(domain: string): Promise<void>;
  /** Brings what was written to /home/task to the data disk and stops further writes to it; repeatable. */
  flushDataDisk(domain: string): Promise<void>;
  /** The kernel's id of this boot. */
  bootId(domain: string): Promise<string>;
  /** Has the guest shut down and boot again; doesn't wait for it. */
  reboot(domain: string): Promise<void>;
  /** Asks the guest to shut down in order, and doesn't wait for it; repeatable. */
  shutDown(domain: string): Promise<void>;
}

export interface HostProbe {
  measure(): Promise<Omit<HostFacts, 'images'>>;
  accelerator(): Promise<'kvm' | 'qemu'>;
}
