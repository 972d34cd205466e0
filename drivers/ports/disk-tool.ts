import type { Readable } from 'node:stream';
import type { ListedEntry, ManifestLink } from '../../model/outputs/manifest.ts';
import type { SkippedFiles } from '../../model/outputs/skipped.ts';

export interface DiskTool {
  /** Whether a disk exists: it is renamed to its path when it is complete. */
  exists(path: string): Promise<boolean>;
  /** A qcow2 overlay of `virtualMiB` on a backing file. */
  createOverlay(path: string, backing: string, virtualMiB: number): Promise<void>;
  /** The overlay of a template, for a VM that starts from it, with at least `virtualMiB`. Replaces an existing one. */
  copyOverlay(path: string, from: string, virtualMiB: number): Promise<void>;
  /** A disk of zeros, as one hole. */
  createEmpty(path: string, sizeMiB: number): Promise<void>;
  /** Succeeds also where it doesn't exist. */
  remove(path: string): Promise<void>;
  /** An ext4 image of exactly `sizeMiB` with the content of a folder; `inputs-too-large`, `disk-full`. */
  createDataDisk(path: string, folder: string, sizeMiB: number): Promise<void>;
  /**
   * Regular files of an ext4 image that a guest wrote which patterns select, read in user space, never mounted; at most
   * `limitFiles`. What can't be taken is in `skipped`. Reading has a budget: it ends whatever the guest made of the disk.
   * `outputs-refused` where there is no file system.
   */
  listFiles(image: string, patterns: readonly string[], limitFiles: number, signal: AbortSignal): Promise<DiskListing>;
  /** The content of one listed file, exactly its `sizeBytes`; its holes are not read. */
  readFile(image: string, file: DiskFile): Readable;
  /**
   * The format and size of an uploaded disk, by its header alone. `image-refused` for one that refers to another file, is
   * encrypted, has snapshots, is malformed, or has more than `limitMiB`.
   */
  inspect(path: string, limitMiB: number): Promise<{ format: 'qcow2' | 'raw'; virtualMiB: number }>;
  /** Converts a disk's content into one qcow2 without a backing file; `image-refused` where that exceeds the limits. */
  flatten(order: FlattenRequest, signal: AbortSignal): Promise<void>;
  /** The complete file of a disk. */
  readDisk(path: string): Promise<{ sizeBytes: number; content: Readable }>;
}

export interface FlattenRequest {
  source: string;
  /** Given, never probed from the content. */
  format: 'qcow2' | 'raw';
  destination: string;
  /** The limit of the new disk's virtual size. */
  limitMiB: number;
}

export interface DiskFile extends ListedEntry {
  sizeBytes: number;
  /** Of these, the bytes that are not holes. */
  dataBytes: number;
  /** Where they are, three numbers a run: the place in the file, the length and the place in the image, in bytes, in order. */
  runs: readonly number[];
}

export interface DiskListing {
  files: DiskFile[];
  /** Those that patterns select whole, empty ones too, and those with a file that is selected. */
  folders: ListedEntry[];
  links: ManifestLink[];
  /** Patterns that select a file, also one that was skipped. */
  matched: string[];
  skipped: SkippedFiles;
}
