import { randomUUID } from 'node:crypto';
import { closeSync, mkdirSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { usualReadBudget } from '../../../../../drivers/disk/ext4/budget.ts';
import { listSelected } from '../../../../../drivers/disk/ext4/list-files.ts';
import { readListedFile } from '../../../../../drivers/disk/ext4/read-file.ts';
import { run } from '../../../../../drivers/host/run-process.ts';
import type { DiskListing } from '../../../../../drivers/ports/disk-tool.ts';

/** A folder that becomes a data disk, as mkfs makes one. */
export interface DataDisk {
  image: string;
  /** Where its files are put before `make`. */
  tree: string;
  put(path: string | Buffer, content: Buffer | string): void;
  make(sizeMiB?: number, options?: string[]): Promise<void>;
  debugfs(command: string): Promise<string>;
  /** Overwrites bytes of the image. */
  poke(at: number, bytes: Buffer): void;
  remove(): void;
}

/** Its folder is made with its first file: a suite that is left out, whose hooks do not run, leaves nothing. */
export function newDataDisk(): DataDisk {
  const folder = join(tmpdir(), `berth-ext4-${randomUUID()}`);
  const tree = join(folder, 'tree');
  const image = join(folder, 'image');
  return {
    image,
    tree,
    put(path, content) {
      const full = typeof path === 'string' ? join(tree, path) : Buffer.concat([Buffer.from(`${tree}/`), path]);
      mkdirSync(typeof full === 'string' ? dirname(full) : full.subarray(0, full.lastIndexOf('/')), { recursive: true });
      writeFileSync(full, content);
    },
    async make(sizeMiB = 24, options = []) {
      mkdirSync(tree, { recursive: true });
      writeFileSync(image, '');
      truncateSync(image, sizeMiB * 2 ** 20);
      await run(['mkfs.ext4', '-q', '-F', ...options, '-d', tree, image], { deadlineMs: 60_000 });
    },
    debugfs: (command) => run(['debugfs', '-R', command, image], { deadlineMs: 20_000 }),
    poke(at, bytes) {
      const fd = openSync(image, 'r+');
      writeSync(fd, bytes, 0, bytes.length, at);
      closeSync(fd);
    },
    remove: () => rmSync(folder, { recursive: true }),
  };
}

type Budget = Partial<typeof usualReadBudget & { files: number }>;

/** Lists in this thread; the lister's own tests are for the thread. */
export const listOf = ({ image }: { image: string }, patterns: string[], budget: Budget = {}): DiskListing =>
  listSelected(image, patterns, { ...usualReadBudget, files: 10_000, ...budget });

export const pathsOf = ({ files }: DiskListing): string[] => files.map(({ path }) => path).sort();

export async function contentOf({ image }: { image: string }, listing: DiskListing, path: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of readListedFile(image, listing.files.find((file) => file.path === path)!)) chunks.push(chunk);
  return Buffer.concat(chunks);
}
