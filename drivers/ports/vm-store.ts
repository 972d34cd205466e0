import type { PortableRecord } from '../../contracts/host-migration.ts';
import type { ConsoleRange } from '../../model/console.ts';
import type { ImageId, VmId } from '../../model/ids.ts';

/** What a host remembers of a VM, in its vm.json: written atomically, before anything that it describes. */
export interface VmRecord extends PortableRecord {
  vmId: VmId;
  /** The highest generation that any order for this VM carried. */
  generation: number;
  image: ImageId;
  vni: number;
  /** Set once the guest's writes are on data.raw and no more can follow. */
  flushed: boolean;
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
