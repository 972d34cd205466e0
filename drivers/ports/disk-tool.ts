import type { Readable } from 'node:stream';

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
   * Regular files of an ext4 image that a guest wrote, read in user space, never mounted. Symlinks, devices and
   * lost+found are left out. The caller has to check names, which the guest chose. `outputs-refused` for a damaged file system.
   */
  listFiles(image: string, limitFiles: number): Promise<DiskFile[]>;
  /** The content of one listed file, exactly its `sizeBytes`. */
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

export interface DiskFile {
  path: string;
  inode: number;
  sizeBytes: number;
}
