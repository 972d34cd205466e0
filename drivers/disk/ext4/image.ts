import { fstatSync, readSync } from 'node:fs';
import { BerthError } from '../../../model/errors.ts';
import type { Spending } from './budget.ts';

/**
 * The blocks and inodes of an ext4 image that a guest wrote (https://docs.kernel.org/filesystems/ext4/). Nothing in it is
 * trusted: every number is checked against the image's size, every read counts against a budget, and unknown features are
 * refused.
 */
const signature = 0xef53;
const superblockAt = 1024;
/** Features that mkfs.ext4 sets or kernels turn on by themselves; others change the layout. */
const incompatible = {
  filetype: 0x2,
  recover: 0x4,
  extents: 0x40,
  bits64: 0x80,
  flexGroups: 0x200,
  checksumSeed: 0x2000,
  largeDirectory: 0x4000,
};
const known = Object.values(incompatible).reduce((sum, bit) => sum | bit, 0);

const kinds = new Map([
  [0x8000, 'file'],
  [0x4000, 'folder'],
  [0xa000, 'link'],
] as const);

export interface Inode {
  number: number;
  kind: 'file' | 'folder' | 'link' | 'special';
  /** Permission bits. */
  mode: number;
  sizeBytes: number;
  modifiedMs: number;
  flags: number;
  /** The root of its extent tree; of a short link, its target. */
  root: Buffer;
}

/** The first four bytes of each block that describes the journal itself. */
export const journalSignature = 0xc03b3998;

/** A block as the journal has it. */
export interface JournalCopy {
  /** The block of the image with the copy. */
  at: number;
  /** Its first four bytes are the journal's signature, and are left out in the copy. */
  escaped: boolean;
}

/** A part of the image is not as ext4 has it: what it belongs to is skipped. */
export class Damage extends Error {}

/** Nothing can be read of the image. */
export const refused = (why: string): BerthError => new BerthError('outputs-refused', `reading the data disk: ${why}`);

export class Ext4Image {
  readonly blockBytes: number;
  readonly blocks: number;
  /** The inode of the journal, where that was not written back; null: the blocks are as they should be. */
  readonly journalInode: number | null;
  readonly #fd: number;
  readonly #spending: Spending;
  readonly #inodes: number;
  readonly #inodesPerGroup: number;
  readonly #inodeBytes: number;
  readonly #descriptorBytes: number;
  readonly #descriptorsAt: number;
  /** The block of an inode table that was read last: inodes of one folder are neighbours. */
  #cached: { block: number; bytes: Buffer } | null = null;
  #newer: ReadonlyMap<number, JournalCopy> = new Map();

  /** Throws `outputs-refused` for what is no ext4 file system that can be read. */
  constructor(fd: number, spending: Spending) {
    this.#fd = fd;
    this.#spending = spending;
    const { size } = fstatSync(fd);
    if (size < superblockAt + 1024) throw refused('it ends before its superblock');
    const block = this.#readAt(superblockAt, 1024);
    if (block.readUInt16LE(0x38) !== signature) throw refused('it has no ext4 file system any more');
    const features = block.readUInt32LE(0x60);
    if ((features & ~known) !== 0) throw refused(`it has unknown features: 0x${((features & ~known) >>> 0).toString(16)}`);
    this.journalInode = (features & incompatible.recover) === 0 ? null : block.readUInt32LE(0xe0);
    const blockShift = block.readUInt32LE(0x18);
    if (blockShift > 6) throw refused(`its blocks have 2^${blockShift + 10} bytes`);
    const wide = (features & incompatible.bits64) !== 0;
    this.blockBytes = 1024 << blockShift;
    this.blocks = block.readUInt32LE(0x4) + (wide ? block.readUInt32LE(0x150) * 2 ** 32 : 0);
    this.#inodes = block.readUInt32LE(0x0);
    this.#inodeBytes = block.readUInt16LE(0x58);
    this.#inodesPerGroup = block.readUInt32LE(0x28);
    this.#descriptorBytes = wide ? block.readUInt16LE(0xfe) : 32;
    this.#descriptorsAt = (block.readUInt32LE(0x14) + 1) * this.blockBytes;
    if (
      this.#inodesPerGroup === 0 ||
      this.#inodeBytes < 128 ||
      this.#inodeBytes > this.blockBytes ||
      !isPowerOfTwo(this.#inodeBytes) ||
      this.#descriptorBytes < 32 ||
      this.#descriptorBytes > 1024 ||
      !isPowerOfTwo(this.#descriptorBytes) ||
      this.blocks * this.blockBytes > size
    )
      throw refused('its superblock makes no sense');
  }

  /** From here on these copies are read in the place of their blocks. */
  readCopies(newer: ReadonlyMap<number, JournalCopy>): void {
    this.#newer = newer;
    this.#cached = null;
  }

  /** One block. */
  readBlock(block: number): Buffer {
    if (block >= this.blocks) throw new Damage(`it leads to block ${block}, out of the disk`);
    const copy = this.#newer.get(block);
    const bytes = this.#readAt((copy?.at ?? block) * this.blockBytes, this.blockBytes);
    if (copy?.escaped === true) bytes.writeUInt32BE(journalSignature, 0);
    return bytes;
  }

  readInode(number: number): Inode {
    if (number < 1 || number > this.#inodes) throw new Damage(`there is no inode ${number}`);
    const group = Math.floor((number - 1) / this.#inodesPerGroup);
    const descriptor = this.#readCached(this.#descriptorsAt + group * this.#descriptorBytes, this.#descriptorBytes);
    const high = this.#descriptorBytes >= 64 ? descriptor.readUInt32LE(0x28) : 0;
    const table = descriptor.readUInt32LE(0x8) + high * 2 ** 32;
    const position = table * this.blockBytes + ((number - 1) % this.#inodesPerGroup) * this.#inodeBytes;
    const inode = this.#readCached(position, this.#inodeBytes);
    const type = inode.readUInt16LE(0);
    return {
      number,
      kind: kinds.get((type & 0xf000) as 0x8000) ?? 'special',
      mode: type & 0o7777,
      sizeBytes: inode.readUInt32LE(0x4) + inode.readUInt32LE(0x6c) * 2 ** 32,
      modifiedMs: modifiedMs(inode),
      flags: inode.readUInt32LE(0x20),
      root: Buffer.from(inode.subarray(0x28, 0x28 + 60)),
    };
  }

  /** What lies within one block, as descriptors and inodes do, since their sizes are powers of two. */
  #readCached(position: number, length: number): Buffer {
    const block = Math.floor(position / this.blockBytes);
    this.#spending.spend('entries');
    if (this.#cached?.block !== block) this.#cached = { block, bytes: this.readBlock(block) };
    const from = position - block * this.blockBytes;
    if (from + length > this.blockBytes) throw new Damage('an inode lies across two blocks');
    return this.#cached.bytes.subarray(from, from + length);
  }

  #readAt(position: number, length: number): Buffer {
    this.#spending.spend('blocks');
    const buffer = Buffer.allocUnsafe(length);
    if (readSync(this.#fd, buffer, 0, length, position) !== length) throw new Damage(`it ends before byte ${position + length}`);
    return buffer;
  }
}

const isPowerOfTwo = (value: number): boolean => (value & (value - 1)) === 0;

/** Seconds with 34 bits and nanoseconds, where inodes are large enough for them. */
function modifiedMs(inode: Buffer): number {
  const seconds = inode.readInt32LE(0x10);
  const hasExtra = inode.length > 0x8c && inode.readUInt16LE(0x80) >= 0xc;
  const extra = hasExtra ? inode.readUInt32LE(0x88) : 0;
  return (seconds + (extra & 3) * 2 ** 32) * 1000 + Math.floor(Math.min(extra >>> 2, 999_999_999) / 1e6);
}
