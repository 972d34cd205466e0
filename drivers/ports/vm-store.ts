import type { PortableRecord } from '../../contracts/host-migration.ts';
import type { ConsoleRange } from '../../model/console.ts';
import type { ImageId, VmId } from '../../model/ids.ts';

/** A host's record of a VM, vm.json: written atomically, before anything that it describes. */
export interface VmRecord extends PortableRecord {
  vmId: VmId;
  /** The highest generation of any request for this VM. */
  generation: number;
  image: ImageId;
  vni: number;
  /** Set once the guest's writes are on data.raw and no more can follow. */
  flushed: boolean;
  /** The removal has begun: nothing of this generation may be created any more. */
  removing: boolean;
  /** The target generation of a migration from this host, active or done: the end of the domain here is no loss. */
  departureGeneration: number | null;
  /** The departure for which its home has kept the console's history and is cleaned up: the disks are all that remains. */
  cleanedUpAfter: number | null;
  /**
   * Set before its memory is saved, and `complete` once the file is. Cleared before a restored guest executes its first
   * instruction: from then on the file must never be used again.
   */
  suspended: { sinceMs: number; complete: boolean } | null;
  /** Since when its processors are stopped on request; null while they aren't. */
  pausedSinceMs: number | null;
  /** It came to this host paused, and has not been resumed by Berth since: where it runs, somebody else has resumed it. */
  arrivedPaused: boolean;
  /** Its disks were migrated to this host: these are in use, even where the ledger doesn't have it yet. */
  disksLocal: boolean;
  keepsOutputs: boolean;
}

export interface VmPaths {
  folder: string;
  overlay: string;
  data: string;
  console: string;
  identitySocket: string;
  streamSocket: string;
  consoleSocket: string;
  /** Where inputs are fetched to before data.raw is made of them. */
  inputs: string;
  /** The memory of a suspended VM, and the file that it is written to until it is complete. */
  memory: string;
  memoryPartial: string;
  /** Of a VM that becomes a template. */
  templateMemory: string;
  templateState: string;
  /** The ISO that cloud-init reads at the first boot. */
  seed: string;
  /** The flat disk of a build, until it is uploaded to the repository. */
  flat: string;
}

/** The folders of VMs on this host's disk, and the generations of removed VMs. */
export interface VmStore {
  paths(vmId: string): VmPaths;
  /** null when this host has no such VM. */
  read(vmId: string): Promise<VmRecord | null>;
  /** Atomic and durable; makes the VM's folder where it doesn't exist. For what must survive a power cut, such as generations. */
  writeDurably(record: VmRecord): Promise<void>;
  /** Atomic; a power cut may bring back the previous record. For what a power cut ends anyway, such as a domain. */
  writeNonDurable(record: VmRecord): Promise<void>;
  /** Makes an empty folder for inputs; removes what an earlier attempt left there. */
  resetInputs(vmId: string): Promise<string>;
  removeInputs(vmId: string): Promise<void>;
  /** Flushes memoryPartial to the disk and renames it to memory; does nothing where there is no memoryPartial. */
  commitMemory(vmId: string): Promise<void>;
  /** Removes saved memory, complete or not. */
  removeMemory(vmId: string): Promise<void>;
  /** The bytes that the saved memory takes on the disk; 0 where there is none. */
  memoryBytes(vmId: string): Promise<number>;
  /** Some bytes of its console, which is its history, the previous file of its log and the current one; null where it has none. */
  readConsole(vmId: string, range: ConsoleRange): Promise<{ from: number; totalBytes: number; bytes: Buffer } | null>;
  /** The space that is free for this process on the disk of the VMs' folders. */
  freeMiB(): Promise<number>;
  /** The VMs with a folder here. */
  listIds(): Promise<VmId[]>;
  list(): Promise<{ vmId: string; record: VmRecord | null; bytes: number }[]>;
  /** Records for a day that this VM was removed with this generation, then removes its folder; repeatable. */
  remove(vmId: string, generation: number): Promise<void>;
  /** The generation with which a VM was removed here; null where it wasn't. */
  removedGeneration(vmId: string): Promise<number | null>;
  /** Moves a VM's folder to the quarantine; does nothing where there is none. */
  quarantine(vmId: string): Promise<void>;
  listQuarantined(): Promise<{ vmId: string; sinceMs: number }[]>;
  removeQuarantined(vmId: string): Promise<void>;
}
