import type { Spending } from './budget.ts';
import { Damage, type Ext4Image, type Inode } from './image.ts';

const extentsFlag = 0x80000;
const extentSignature = 0xf30a;
const maxTreeDepth = 5;
/** Of one file: 7 million extents. A tree of more blocks serves to keep a reader at work. */
const maxTreeBlocks = 20_000;

/** A run of blocks that were written, at their place in the file. What lies between two runs reads as zeros. */
export interface Extent {
  logical: number;
  count: number;
  start: number;
}

/** The runs of blocks of an inode within its size, in order, without overlap. */
export function readExtents(image: Ext4Image, inode: Inode, spending: Spending): Extent[] {
  if ((inode.flags & extentsFlag) === 0) {
    if (inode.sizeBytes === 0) return [];
    throw new Damage('it has no extents');
  }
  return new ExtentTree(image, spending).read(inode);
}

class ExtentTree {
  readonly #image: Ext4Image;
  readonly #spending: Spending;
  readonly #found: Extent[] = [];
  /** Blocks of the tree: each is in it once. */
  readonly #seen = new Set<number>();
  /** The first block of the file that no extent has covered so far. */
  #next = 0;

  constructor(image: Ext4Image, spending: Spending) {
    this.#image = image;
    this.#spending = spending;
  }

  read(inode: Inode): Extent[] {
    this.#visit(inode.root, null);
    const blocks = Math.ceil(inode.sizeBytes / this.#image.blockBytes);
    return this.#found
      .filter(({ logical }) => logical < blocks)
      .map((extent) => ({ ...extent, count: Math.min(extent.count, blocks - extent.logical) }));
  }

  #visit(node: Buffer, expectedDepth: number | null): void {
    const entries = node.readUInt16LE(2);
    const depth = node.readUInt16LE(6);
    const shaped = node.readUInt16LE(0) === extentSignature && 12 + entries * 12 <= node.length;
    if (!shaped || depth > maxTreeDepth || (expectedDepth !== null && depth !== expectedDepth))
      throw new Damage('its extent tree is damaged');
    for (let at = 12; at < 12 + entries * 12; at += 12) {
      this.#spending.spend('entries');
      if (depth === 0) this.#takeLeaf(node, at);
      else this.#visit(this.#child(node, at), depth - 1);
    }
  }

  #child(node: Buffer, at: number): Buffer {
    const block = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 2 ** 32;
    if (this.#seen.has(block)) throw new Damage('its extent tree has a block twice');
    this.#seen.add(block);
    if (this.#seen.size > maxTreeBlocks) throw new Damage(`its extent tree has more than ${maxTreeBlocks} blocks`);
    return this.#image.readBlock(block);
  }

  #takeLeaf(node: Buffer, at: number): void {
    const logical = node.readUInt32LE(at);
    const length = node.readUInt16LE(at + 4);
    // Above 32768 the run is allocated but was never written: it reads as zeros.
    const written = length <= 32_768;
    const count = written ? length : length - 32_768;
    const start = node.readUInt32LE(at + 8) + node.readUInt16LE(at + 6) * 2 ** 32;
    if (count === 0 || start + count > this.#image.blocks) throw new Damage('an extent leads out of the disk');
    if (logical < this.#next) throw new Damage('its extent tree is out of order');
    this.#next = logical + count;
    if (!written) return;
    this.#spending.spend('bytes', bytesOfExtent);
    this.#found.push({ logical, count, start });
  }
}

/** Of a run as it is returned: three numbers. */
const bytesOfExtent = 24;
