import type { ConsolePage, ConsoleRange } from '../model/console.ts';
import type { HostFacts, HostInventory } from '../model/host.ts';
import type { ImageId, VmId } from '../model/ids.ts';
import type { ColdCopyPass } from '../model/migration.ts';
import type { SkippedFiles } from '../model/outputs/skipped.ts';
import type { TaskError } from '../model/task.ts';
import type { Boot, ImageRef, VmLoad, VmSpec } from '../model/vm.ts';
import type { DomainConfig, DomainReport } from './domain.ts';
import type {
  MigrateOut,
  MigrateOutResult,
  MigrationObservation,
  ObserveRecovery,
  PackColdCopy,
  PortableRecord,
  PrepareIncoming,
  RemoveColdLeftover,
  UnpackColdCopy,
} from './host-migration.ts';
import type { StreamOrder } from './stream.ts';

/** One input of a task, ready to be fetched: from the repository by a signed URL, or from the outside. */
export interface InputFile {
  path: string;
  url: string;
  /** `repository` URLs are ours; `outside` ones pass the address check and the size and time limits. */
  source: 'repository' | 'outside';
  sizeBytes: number | null;
  sha256: string | null;
  /** Octal digits; 0644 if it is absent. */
  mode?: string;
}

export interface StageIn {
  vm: VmSpec;
  inputs: InputFile[];
  limits: { outsideBytes: number; outsideSeconds: number; allowInternal: boolean };
}

/** Source of an image; `cache`: the host had it already. */
export type ImageSource = 'cache' | 'peer' | 'repository';

export interface StagedIn {
  /** Of the inputs. */
  bytes: number;
  image: ImageSource;
}

export interface RunCommand {
  vm: VmSpec;
  command: string[];
  env: Record<string, string>;
  timeoutS: number;
  /** Where the live log goes: PUT with `Content-Range: bytes <from>-<to>/*`; repeating a range is harmless. */
  log: { url: string; limitBytes: number };
  /** Whether the outputs are wanted also when the command is cut off. Absent: no. */
  keepOutputs?: boolean;
}

export interface RunResult {
  /** null when the command was ended because of its time. */
  exitCode: number | null;
  signal: number | null;
  /** The guest has told how the command ended. Absent: `signal` is guessed from the exit code. */
  signalTold?: boolean;
  timedOut: boolean;
  startedAt: string;
  endedAt: string;
  logBytes: number;
}

export interface StageOut {
  vm: VmSpec;
  node: number;
  patterns: string[];
  /** POST target for one output: the worker adds `?path=…`; answers `{file, sizeBytes, sha256}`. */
  uploadUrl: string;
  /** Of all files together: their number, their data, and their sizes with holes (as much as their data, if not given). */
  limits: { files: number; bytes: number; sparseBytes?: number };
  /** Whether modes, times, folders and links are stored beside the files, as an output of their own. */
  manifest?: boolean;
  /** The guest runs at another host, and its disks were flushed there. */
  flushedElsewhere?: boolean;
}

/** Customization of a standalone VM's guest. */
export interface CustomizeVm {
  vm: VmSpec;
  user: { name: string; sshKey: string } | null;
  /** Inputs for stageIn, and where each belongs in the guest. */
  files: { path: string; mode: string; input: InputFile }[];
  firstBoot: string[];
  swapMiB: number;
}

export interface StagedOut {
  outputs: StoredOutput[];
  /** How many there are, where the list is not handed back: the ledger has a row of each that was stored. */
  stored?: number;
  /** The attempt by which the repository knows what this one has stored. Absent: of an earlier version. */
  attempt?: string;
  bytes: number;
  unmatched: string[];
  /** Absent: the host has a version that took all or nothing. */
  skipped?: SkippedFiles;
  /** When the domain ended; null: removeVm ends it. */
  endedAt: string | null;
  /** How long before the answer that was, by the host's clock. Absent: the worker is of an earlier version. */
  endedAgoMs?: number;
}

/** Arguments to make the disk of an image from a build VM's disk. */
export interface StoreImage {
  vm: VmSpec;
  /** The source of the flat disk: the VM's overlay on a base image, an uploaded disk, or the data disk with a suite in it. */
  from: 'image' | 'disk' | 'suite';
  /** POST target: the worker adds `?path=disk`; answers `{file, sizeBytes, sha256}`. */
  uploadUrl: string;
  /** Bound on the disk's virtual size. */
  sizeMiB: number;
}

export interface StoredDisk {
  file: string;
  sizeBytes: number;
  sha256: string;
  virtualMiB: number;
}

export interface StoredOutput {
  path: string;
  node: number;
  file: string;
  sizeBytes: number;
  sha256: string;
}

/**
 * The activities on one host. Each observes first: what is done already is success, what does not belong to Berth is
 * `not-ours`, and a generation older than the one recorded in vm.json is `stale-generation`. All may be repeated, and may be
 * killed at any line.
 */
export interface HostActivities {
  /** Measures this machine: capacity, CPU, accelerator, cached images. */
  observeHost(): Promise<HostFacts>;
  /** Heartbeats for as long as the worker runs; its end shows that the worker has ended. */
  reportLiveness(): Promise<void>;
  observeInventory(): Promise<HostInventory>;
  /** What the domains of these VMs do. VMs that aren't here, or whose domain is between two states, are left out. */
  observeDomains(vmIds: VmId[]): Promise<DomainReport[]>;
  /** Quarantines the files of a VM without a row; a second call, a day later, removes them. Never changes a live domain. */
  quarantineVm(vmId: string): Promise<void>;

  /**
   * Brings an image into the cache; concurrent calls share one transfer.
   * @param pinnedUntil RFC 3339: the cache does not evict it until then
   */
  ensureImage(image: ImageRef, pinnedUntil?: string): Promise<{ from: ImageSource; bytes: number }>;
  /** Removes a retired image from the cache. Throws in-use while a VM of this host needs it. */
  removeImage(id: ImageId): Promise<void>;
  /**
   * Records the generation; builds data.raw from the inputs, the overlay on the image, which it fetches when missing, and
   * the owner's network on this host.
   */
  stageIn(order: StageIn): Promise<StagedIn>;
  /**
   * Starts the domain, from a template where one fits, gives the guest its identity and mounts /home/task.
   * @param diskHostAddress of the host that has its disks; null or absent: this one
   */
  ensureRunning(vm: VmSpec, diskHostAddress?: string | null): Promise<{ createMs: number; bootMs: number; boot: Boot }>;
  /** Boots a VM that becomes a template for VMs of its kind, unless there is one. removeVm removes what remains of the VM. */
  buildTemplate(vm: VmSpec): Promise<BuiltTemplate>;
  /** Sets up a running guest: host key, user, files, swap, first commands. Returns its sshd's public key. */
  customizeVm(order: CustomizeVm): Promise<{ hostKey: string }>;
  /** Some bytes of what the guest wrote to its serial port, here and before it came; `conflict` when it was not started here yet. */
  readConsole(vmId: VmId, generation: number, range: ConsoleRange): Promise<ConsolePage>;
  /**
   * Connects a client with a session in the guest: finds the guest's program, and connects to the API process that holds the
   * client. The connection lasts beyond this call, and ends with the worker.
   */
  openStream(vmId: VmId, generation: number, order: StreamOrder): Promise<void>;
  /** Runs the command once, also when it is repeated, and follows it to its end. */
  runCommand(order: RunCommand): Promise<RunResult>;
  /** Ends the command of a task that is cancelled; the guest stays. */
  stopCommand(vmId: VmId, generation: number): Promise<void>;
  /**
   * Flushes the data disk, then reads it in user space and streams what matches to the repository. The domain is ended
   * meanwhile.
   */
  stageOut(order: StageOut): Promise<StagedOut>;
  /**
   * Saves the guest's memory beside its disks and ends the domain, which frees processors and memory. runCommand throws
   * `vm-suspended`. In every case the VM then runs or is suspended; restoreVm is the undo.
   */
  suspendVm(vm: VmSpec): Promise<{ bytes: number }>;
  /** Runs the VM from its saved memory, with the current time; also a VM whose suspension failed. */
  restoreVm(order: RestoreVm): Promise<ResumedGuest>;
  /** Stops the guest's processors; it keeps its memory. */
  pauseVm(vm: VmSpec): Promise<void>;
  /** Lets a paused guest run on, also where another party than its owner has paused it. */
  resumeVm(vm: VmSpec): Promise<ResumedGuest>;
  /** Boots the guest again, through its agent or by a reset, also a paused one; returns when it answers with its identity. */
  rebootVm(vm: VmSpec): Promise<void>;
  /** At the target of a cold migration: what it still has of an earlier version. Throws `disk-full` without free disk for its memory. */
  offerCachedChunks(vm: VmSpec): Promise<{ chunks: number }>;
  /** Where its memory is, or its disks: packs them for the target. `sinceMs`: when it was suspended, where it was. */
  packColdCopy(order: PackColdCopy): Promise<{ bytes: number; totalBytes: number; sinceMs: number | null }>;
  /** At the target: the VM is here, suspended. Undone by removeColdLeftover. */
  unpackColdCopy(order: UnpackColdCopy): Promise<void>;
  /** Progress of packColdCopy or unpackColdCopy here; null where neither runs. */
  observeColdCopy(vmId: VmId): Promise<ColdCopyPass | null>;
  /** The result of restoreVm here, before the VM may be restored at the other host. */
  resolveRestore(vm: VmSpec): Promise<'untouched' | 'running' | 'lost'>;
  /** Removes the VM's files here, or makes them an old version; nothing restores it here any more. */
  removeColdLeftover(order: RemoveColdLeftover): Promise<void>;
  /** Fetches an uploaded disk and checks it: `image-refused` says why it can't be an image. */
  importDisk(order: StoreImage): Promise<void>;
  /** Shuts a build VM's guest down and waits for it: then its writes are on its disks. */
  shutDownGuest(vm: VmSpec): Promise<void>;
  /** Makes one flat disk of what a build left on this host, and streams it to the repository. */
  storeImage(order: StoreImage): Promise<StoredDisk>;
  /** Ends the domain. Success only when the hypervisor says that it is gone. */
  removeDomain(vmId: VmId, generation: number): Promise<void>;
  /** Removes the VM's folder. Refuses while a domain may be alive. */
  removeDisks(vmId: VmId, generation: number): Promise<void>;
  /** Both, of a VM that has its disks where it runs. */
  removeVm(vmId: VmId, generation: number): Promise<void>;

  /** What VMs do with their memory and processors, observed for a second; VMs that aren't here are omitted. */
  observeLoads(vmIds: VmId[]): Promise<{ vmId: VmId; load: VmLoad }[]>;
  /** What this host has of a VM that migrates, and its migration job. */
  observeMigration(vmId: VmId): Promise<MigrationObservation>;
  /** At the source: what the target's record has to contain. `commanded`: the VM runs one command, which must have begun. */
  readPortableRecord(vmId: VmId, generation: number, commanded: boolean): Promise<PortableRecord>;
  /** At the target: the record, the network; returns the domain's configuration here. Undone by removeLeftover. Throws `disk-full`. */
  prepareIncoming(order: PrepareIncoming): Promise<DomainConfig>;
  /** At the source: copies the memory, hands over, resumes the target. Both hosts must be observed to know where the VM is. */
  migrateOut(order: MigrateOut): Promise<MigrateOutResult>;
  /** At the source: aborts a migration that is under way; no further attempt of it can begin. */
  abortMigration(vmId: VmId, generation: number, targetGeneration: number): Promise<void>;
  /** After both hosts were observed, and this domain is the only one. */
  resumeDomain(vmId: VmId, generation: number): Promise<void>;
  /** Whether the agent of a guest that moved here answers: at once, or when a minute has passed. */
  probeGuest(vmId: VmId, generation: number): Promise<boolean>;
  /** Whether a VM that moved here is as busy as before: as soon as it is, or when a minute has passed. */
  observeRecovery(order: ObserveRecovery): Promise<boolean>;
  /** After both hosts were observed, and the VM is at the other one. Never ends a running domain. */
  removeDomainUnlessRunning(vmId: VmId, generation: number): Promise<void>;
  /** Removes what is left of a VM at a host where it isn't; at its home only the record changes. */
  removeLeftover(vmId: VmId, generation: number, home: boolean): Promise<void>;
  /**
   * At the VM's host: copies its disks from its home while it runs, and switches it to the copies. When it is cancelled
   * before that, nothing remains here. resolveDiskMigration returns which of the two has happened.
   */
  migrateDisks(vm: VmSpec): Promise<{ bytes: number }>;
  /** At the same host: progress of the copies; null where none runs. */
  observeDiskMigration(vmId: VmId): Promise<{ copiedBytes: number; totalBytes: number } | null>;
  /** Where its disks are now; ends a copy that is incomplete. */
  resolveDiskMigration(vm: VmSpec): Promise<'here' | 'there'>;
  /** At the VM's host, before its outputs are read at its home. */
  flushGuestDisks(vm: VmSpec): Promise<void>;
}

export interface BuiltTemplate {
  key: string;
  /** `already`: it existed; `retired`: such a template has failed too often; `full`: the cache is. */
  outcome: 'made' | 'already' | 'retired' | 'full';
  bytes: number;
}

/** A guest that runs again. `problem`: why it was not told its name, address and the time; absent or null: it was. */
export type ResumedGuest = { problem: TaskError | null } | undefined;

export interface RestoreVm {
  vm: VmSpec;
  /** Address of the host that has its disks; null: this one. */
  diskHostAddress: string | null;
}
