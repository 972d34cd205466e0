import { open, readdir } from 'node:fs/promises';
import { z } from 'zod';
import { run } from '../host/run-process.ts';

/** Of a disk, by its offset. */
interface Extent {
  at: number;
  bytes: Buffer;
}

/** Sizes of disks that are kept; a client chooses them. */
const maxSizes = 32;
/** A file system of half a gigabyte has 324 KiB that are not zero. */
const maxBytes = 4 * 2 ** 20;
const mapDeadlineMs = 30_000;

const mapSchema = z.array(z.looseObject({ start: z.int(), length: z.int(), data: z.boolean(), zero: z.boolean() }));

/**
 * What mkfs.ext4 writes into a data disk without files, by the size of the disk: the same each time but for the file system's id, which
 * nobody compares between VMs. Writing it takes a millisecond, mkfs.ext4 with its start twenty.
 */
export class DataDisks {
  readonly #kept = new Map<number, Extent[]>();

  /** Makes a disk without files at a path that does not exist, flushed as mkfs.ext4 does. Returns false where none of this size is kept. */
  async write(path: string, sizeMiB: number): Promise<boolean> {
    const extents = this.#kept.get(sizeMiB);
    if (extents === undefined) return false;
    const file = await open(path, 'wx', 0o600);
    try {
      await file.truncate(sizeMiB * 2 ** 20);
      for (const { at, bytes } of extents) await file.write(bytes, 0, bytes.length, at);
      await file.sync();
    } finally {
      await file.close();
    }
    return true;
  }

  /** Keeps what a disk has that mkfs.ext4 has made, and nobody has opened since. A disk with too much of it is not kept. */
  async keep(path: string, sizeMiB: number): Promise<void> {
    const argv = ['qemu-img', 'map', '--output=json', '-f', 'raw', path] as const;
    const map = mapSchema.parse(JSON.parse(await run(argv, { deadlineMs: mapDeadlineMs })));
    const written = map.filter(({ data, zero }) => data && !zero);
    if (written.reduce((sum, { length }) => sum + length, 0) > maxBytes) return;
    const extents: Extent[] = [];
    const file = await open(path, 'r');
    try {
      for (const { start, length } of written) {
        const bytes = Buffer.alloc(length);
        const { bytesRead } = await file.read(bytes, 0, length, start);
        if (bytesRead !== length)
          throw new Error(`BUG: ${path} ends at ${start + bytesRead}, and qemu-img found ${length} bytes at ${start}`);
        extents.push({ at: start, bytes });
      }
    } finally {
      await file.close();
    }
    const [oldest] = this.#kept.keys();
    if (this.#kept.size >= maxSizes && oldest !== undefined) this.#kept.delete(oldest);
    this.#kept.set(sizeMiB, extents);
  }
}

export const hasFiles = async (folder: string): Promise<boolean> => (await readdir(folder)).length > 0;
