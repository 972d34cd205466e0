import type { DomainConfig } from './domain.ts';
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

export type {
  ColdCopyFile,
  MigrateOut,
  MigrateOutResult,
  MigrationObservation,
  PackColdCopy,
  PortableRecord,
  PrepareIncoming,
  RemoveColdLeftover,
  UnpackColdCopy,
} from './host-migration.ts';

import type { ConsolePage, ConsoleRange } from '../model/console.ts';
import type { HostFacts, HostInventory } from '../model/host.ts';
import type { ImageId, VmId } from '../model/ids.ts';
import type { ColdCopyPass } from '../model/migration.ts';
import type { Boot, ImageRef, VmLoad, VmSpec } from '../model/vm.ts';

/** One input of a task, ready to be fetched: from the repository by a signed URL, or from the outside. */
export interface InputFile {
  path: string;
  url: string;
  /** `repository` URLs are ours; `outside` ones pass the address check and the size and time limits. */
  source: 'repository' | 'outside';
  sizeBytes: number | null;
  sha256: string | null;
}

export interface StageIn {
  vm: VmSpec;
  inputs: InputFile[];
  limits: { outsideBytes: number; outsideSeconds: number; allowInternal: boolean };
}

/** From where an image came into the host's cache; `cache`: it was there. */
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
}

export interface RunResult {
  /** null when the command was ended because of its time. */
  exitCode: number | null;
  signal: number | null;
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
  limits: { files: number; bytes: number };
  /** The guest runs elsewhere and was settled there. */
  flushedElsewhere?: boolean;
}

/** What was ordered of a VM that stands alone, for its guest. */
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
  bytes: number;
  unmatched: string[];
  /** When the domain was gone; null where its end is left to its removal. */
  endedAt: string | null;
}

/** How a build VM's disk becomes the disk of an image. */
export interface StoreImage {
  vm: VmSpec;
  /** What is made flat: the VM's overlay on a base image, an uploaded disk, or the data disk with a suite in it. */
  from: 'image' | 'disk' | 'suite';
  /** POST target: the worker adds `?path=disk`; answers `{file, sizeBytes, sha256}`. */
  uploadUrl: string;
  /** The most that its VMs may see. */
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
 * The durable steps on one host. Each observes first: what is already so is success, what belongs to somebody
 * else is `not-ours`, and a generation older than the one recorded in vm.json is `stale-generation`.
 * All may be repeated, and may be killed at any line.
 */
export interface HostActivities {
  /** Measures this machine: capacity, CPU, accelerator, cached images. */
  observeHost(): Promise<HostFacts>;
  /** Heartbeats for as long as this worker lives; its end is the sign of the worker's absence. */
  reportLiveness(): Promise<void>;
  observeInventory(): Promise<HostInventory>;
  /** Moves what belongs to nobody out of use; a second call, a day later, removes it. Never touches a live domain. */
  quarantineVm(vmId: string): Promise<void>;

  /**
   * Brings an image into the cache: at once when it is there; one transfer however many ask.
   * @param pinnedUntil RFC 3339: it stays until then, also unused
   */
  ensureImage(image: ImageRef, pinnedUntil?: string): Promise<{ from: ImageSource; bytes: number }>;
  /** An image that was retired leaves the cache. Throws in-use while a VM of this host needs it. */
  removeImage(id: ImageId): Promise<void>;
  /** Records the generation, builds data.raw from the inputs, and does what ensureDisks does. */
  stageIn(order: StageIn): Promise<StagedIn>;
  /** Makes the overlay on the image, which it fetches when missing, and the owner's network on this host. */
  ensureDisks(vm: VmSpec): Promise<ImageSource>;
  /** Starts the domain, from a template where one fits, gives the guest its identity and mounts /home/task. */
  ensureRunning(vm: VmSpec): Promise<{ createMs: number; bootMs: number; boot: Boot }>;
  /** Boots a VM that becomes a template for VMs like it, unless there is one. What it leaves is removed like any VM. */
  buildTemplate(vm: VmSpec): Promise<BuiltTemplate>;
  /** Makes a running guest what was ordered: host key, user, files, swap, first commands. Returns its sshd's public key. */
  customizeVm(order: CustomizeVm): Promise<{ hostKey: string }>;
  /** Some bytes of what the guest wrote to its serial port on this host; `conflict` when it was not started here yet. */
  readConsole(vmId: VmId, generation: number, range: ConsoleRange): Promise<ConsolePage>;
  /** Runs the command once, however often it is called, and follows it to its end. */
  runCommand(order: RunCommand): Promise<RunResult>;
  /** Ends the command of a task that is cancelled; the guest stays. */
  stopCommand(vmId: VmId, generation: number): Promise<void>;
  /**
   * Settles the data disk, then reads it in user space and streams what matches to the repository. The domain, which has
   * nothing left to do, is ended meanwhile.
   */
  stageOut(order: StageOut): Promise<StagedOut>;
  /**
   * Saves the guest's memory beside its disks and ends the domain: then it takes neither processors nor memory. Whoever
   * follows its command is told `vm-suspended`. However it ends, the VM runs or is suspended; restoreVm is its undo.
   */
  suspendVm(vm: VmSpec): Promise<{ bytes: number }>;
  /** Goes on where it was suspended, with the clock of today; also makes a VM run whose suspension failed. */
  restoreVm(order: RestoreVm): Promise<void>;
  /** Stops the guest's processors; it keeps its memory. */
  pauseVm(vm: VmSpec): Promise<void>;
  resumeVm(vm: VmSpec): Promise<void>;
  /** Boots the guest again: asked through its agent, or by the reset button; back when it answers with its identity. */
  rebootVm(vm: VmSpec): Promise<void>;
  /** At the target of a cold migration: what it still has of an earlier version. `disk-full` without room for its memory. */
  offerCachedChunks(vm: VmSpec): Promise<{ chunks: number }>;
  /** Where its memory is, or its disks: packs them for the target. `sinceMs`: when it was suspended, where it was. */
  packColdCopy(order: PackColdCopy): Promise<{ bytes: number; totalBytes: number; sinceMs: number | null }>;
  /** At the target: the VM is here, suspended. Undone by leaveCold. */
  unpackColdCopy(order: UnpackColdCopy): Promise<void>;
  /** How far packVm or unpackVm is here; null where neither is at work. */
  observeColdCopy(vmId: VmId): Promise<ColdCopyPass | null>;
  /** What became of restoreVm here, for whoever may have to restore it elsewhere. */
  resolveRestore(vm: VmSpec): Promise<'untouched' | 'running' | 'lost'>;
  /** What it left here is of the past; nothing restores it here any more. */
  removeColdLeftover(order: RemoveColdLeftover): Promise<void>;
  /** Fetches an uploaded disk and refuses what no disk of ours may be: `image-refused` says why. */
  importDisk(order: StoreImage): Promise<void>;
  /** Has a build VM's guest shut down, and waits for it: what it wrote is on its disks then. */
  shutDownGuest(vm: VmSpec): Promise<void>;
  /** Makes one flat disk of what a build left on this host, and streams it to the repository. */
  storeImage(order: StoreImage): Promise<StoredDisk>;
  /** Ends the domain. Success only when the hypervisor says that it is gone. */
  removeDomain(vmId: VmId, generation: number): Promise<void>;
  /** Removes the VM's folder. Refuses while a domain may be alive. */
  removeDisks(vmId: VmId, generation: number): Promise<void>;
  /** Both, of a VM that has its disks where it runs. */
  removeVm(vmId: VmId, generation: number): Promise<void>;

  /** What VMs do with their memory and processors, looked at for a second; those that aren't here are left out. */
  observeLoads(vmIds: VmId[]): Promise<{ vmId: VmId; load: VmLoad }[]>;
  /** What this host has of a VM that moves, and its migration job. */
  observeMigration(vmId: VmId): Promise<MigrationObservation>;
  /** At the source: what the target's record has to say as well. `commanded`: it runs one command, which has to have begun. */
  readPortableRecord(vmId: VmId, generation: number, commanded: boolean): Promise<PortableRecord>;
  /** At the target: the record, the network; returns the domain as it is to be here. Undone by leaveHost. `disk-full` */
  prepareIncoming(order: PrepareIncoming): Promise<DomainConfig>;
  /** At the source: moves the memory, hands over, resumes the target. Where the VM is then has to be asked of both. */
  migrateOut(order: MigrateOut): Promise<MigrateOutResult>;
  /** At the source: ends a migration that is under way; no attempt of it begins any more. */
  abortMigration(vmId: VmId, generation: number, targetGeneration: number): Promise<void>;
  /** Where both hosts were asked, and this copy is the only one. */
  resumeDomain(vmId: VmId, generation: number): Promise<void>;
  /** Whether the agent of a guest that moved here answers: at once, or when a minute has passed. */
  probeGuest(vmId: VmId, generation: number): Promise<boolean>;
  /** Whether a VM that moved here is as busy as before: as soon as it is, or when a minute has passed. */
  observeRecovery(order: ObserveRecovery): Promise<boolean>;
  /** Where both hosts were asked, and this copy is not the one. Never ends one that runs. */
  removeDomainUnlessRunning(vmId: VmId, generation: number): Promise<void>;
  /** Removes what is left of a VM where it isn't; at its home only the record changes. */
  removeLeftover(vmId: VmId, generation: number, home: boolean): Promise<void>;
  /**
   * At the host where it runs: its disks follow it from its home, in the background, and it goes on with them. Cancelled
   * before that, it leaves nothing here. How it ended is for settleDisks to say.
   */
  migrateDisks(vm: VmSpec): Promise<{ bytes: number }>;
  /** At the same host: how far the copies of its disks are; null where none is at work. */
  observeDiskMigration(vmId: VmId): Promise<{ copiedBytes: number; totalBytes: number } | null>;
  /** Where its disks are now; ends what is neither here nor there. */
  resolveDiskMigration(vm: VmSpec): Promise<'here' | 'there'>;
  /** At the host where it runs, before its outputs are read at its home. */
  flushGuestDisks(vm: VmSpec): Promise<void>;
}

export interface BuiltTemplate {
  key: string;
  /** `already`: it was there; `retired`: such a template has failed too often to be made again; `full`: so is the cache. */
  outcome: 'made' | 'already' | 'retired' | 'full';
  bytes: number;
}

export interface RestoreVm {
  vm: VmSpec;
  /** Address of the host that has its disks; null: this one. */
  diskHostAddress: string | null;
}
