import type { Readable } from 'node:stream';

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
