import type { Spending } from './budget.ts';
import { readExtents } from './extents.ts';
import { Damage, type Ext4Image, type Inode } from './image.ts';

export interface Entry {
  /** The bytes of its name. */
  name: Buffer;
  inode: number;
}

/** Entries of a folder in the order of the disk. Where a block is damaged, its earlier entries come before the error. */
export function* readFolder(image: Ext4Image, folder: Inode, spending: Spending): Generator<Entry> {
  // Unwritten parts of a folder have no entries: a hole is skipped, and a huge size alone costs nothing.
  for (const { start, count } of readExtents(image, folder, spending))
    for (let block = start; block < start + count; block += 1) yield* parseEntries(image.readBlock(block), spending);
}

/** Inner blocks of a hash tree have the form of entries of inode 0, so that a linear read is enough. */
function* parseEntries(block: Buffer, spending: Spending): Generator<Entry> {
  for (let at = 0; at + 8 <= block.length; ) {
    spending.spend('entries');
    const inode = block.readUInt32LE(at);
    const length = block.readUInt16LE(at + 4);
    const nameBytes = block.readUInt8(at + 6);
    if (length < 8 || length % 4 !== 0 || at + length > block.length || nameBytes + 8 > length)
      throw new Damage('the folder is damaged');
    const name = block.subarray(at + 8, at + 8 + nameBytes);
    if (inode !== 0 && nameBytes > 0 && !isDots(name)) yield { name, inode };
    at += length;
  }
}

const isDots = (name: Buffer): boolean => name.length <= 2 && name.every((byte) => byte === 0x2e);

/** Names of folders that were searched lately: many links into one folder read it once. */
const maxCachedNames = 100_000;

/** Finds names in folders. */
export class FolderIndex {
  readonly #image: Ext4Image;
  readonly #spending: Spending;
  readonly #folders = new Map<number, Map<string, number>>();
  #names = 0;

  constructor(image: Ext4Image, spending: Spending) {
    this.#image = image;
    this.#spending = spending;
  }

  find(folder: Inode, name: Buffer): number | null {
    this.#spending.spend('entries');
    return this.#namesOf(folder).get(name.toString('latin1')) ?? null;
  }

  #namesOf(folder: Inode): Map<string, number> {
    const known = this.#folders.get(folder.number);
    if (known !== undefined) return known;
    const names = new Map<string, number>();
    for (const entry of readFolder(this.#image, folder, this.#spending)) {
      this.#spending.spend('bytes', entry.name.length);
      names.set(entry.name.toString('latin1'), entry.inode);
    }
    if (this.#names + names.size > maxCachedNames) {
      this.#folders.clear();
      this.#names = 0;
    }
    this.#folders.set(folder.number, names);
    this.#names += names.size;
    return names;
  }
}
