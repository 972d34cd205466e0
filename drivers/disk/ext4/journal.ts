import type { Spending } from './budget.ts';
import { type Extent, readExtents } from './extents.ts';
import { Damage, type Ext4Image, type JournalCopy, journalSignature } from './image.ts';

/**
 * The journal of a disk whose guest was not there to write it back (https://docs.kernel.org/filesystems/ext4/journal.html): which
 * blocks of the file system have a newer copy in it. Nothing is written; the copies are read in the place of the blocks. As
 * everywhere on a guest's disk nothing is trusted: what the journal says of itself is checked, and each of its blocks is read
 * once. Checksums are not looked at: they are for disks that tear a write, and here all writes were done.
 */
const kind = { descriptor: 1, commit: 2, superblock: 4, revocation: 5 } as const;
const feature = { wide: 0x2, checksum2: 0x8, checksum3: 0x10 } as const;
/** Revocations and asynchronous commits, beside those: others change the layout. */
const knownFeatures = 0x1 | 0x2 | 0x4 | 0x8 | 0x10;
const tagFlag = { escaped: 1, sameUuid: 2, last: 8 } as const;
/** mkfs makes the journal of one, or of some where the disk is small. */
const maxExtents = 1000;
/** Of a copy that is remembered. */
const bytesOfCopy = 32;
const headerBytes = 12;
const uuidBytes = 16;

interface Transaction {
  copies: [number, JournalCopy][];
  revoked: number[];
}

/** The newest copy of each block, of all transactions that were committed. Throws Damage. */
export function readJournal(image: Ext4Image, inode: number, spending: Spending): Map<number, JournalCopy> {
  return new Journal(image, inode, spending).read();
}

class Journal {
  readonly #image: Ext4Image;
  readonly #spending: Spending;
  readonly #extents: Extent[];
  readonly #blocks: number;
  readonly #first: number;
  readonly #start: number;
  readonly #sequence: number;
  readonly #wide: boolean;
  readonly #tagBytes: number;
  readonly #newest = new Map<number, JournalCopy>();

  constructor(image: Ext4Image, inode: number, spending: Spending) {
    this.#image = image;
    this.#spending = spending;
    this.#extents = readExtents(image, image.readInode(inode), spending);
    if (this.#extents.length > maxExtents) throw new Damage('its journal is scattered');
    const head = image.readBlock(this.#place(0));
    const features = head.readUInt32BE(0x28);
    this.#blocks = head.readUInt32BE(0x10);
    this.#first = head.readUInt32BE(0x14);
    this.#sequence = head.readUInt32BE(0x18);
    this.#start = head.readUInt32BE(0x1c);
    this.#wide = (features & feature.wide) !== 0;
    this.#tagBytes = tagBytesOf(features);
    const shaped =
      head.readUInt32BE(0) === journalSignature &&
      head.readUInt32BE(4) === kind.superblock &&
      head.readUInt32BE(0xc) === image.blockBytes &&
      this.#first >= 1 &&
      this.#first < this.#blocks &&
      this.#start < this.#blocks;
    if (!shaped || (features & ~knownFeatures) !== 0) throw new Damage('its journal is damaged, or of an unknown kind');
  }

  read(): Map<number, JournalCopy> {
    // Nothing is in it.
    if (this.#start === 0) return this.#newest;
    let sequence = this.#sequence;
    let open: Transaction = { copies: [], revoked: [] };
    // A journal that leads in a circle ends after as many blocks as it has.
    for (let at = this.#start, left = this.#blocks; left > 0; left -= 1) {
      const block = this.#image.readBlock(this.#place(at));
      // What follows the newest transaction is of an earlier time, or of a transaction that was not committed.
      if (block.readUInt32BE(0) !== journalSignature || block.readUInt32BE(8) !== sequence) break;
      const blockKind = block.readUInt32BE(4);
      at = this.#next(at);
      if (blockKind === kind.descriptor) {
        for (const tag of this.#tags(block)) {
          this.#spending.spend('bytes', bytesOfCopy);
          open.copies.push([tag.block, { at: this.#place(at), escaped: tag.escaped }]);
          at = this.#next(at);
          left -= 1;
        }
      } else if (blockKind === kind.revocation) open.revoked.push(...this.#revocations(block));
      else if (blockKind === kind.commit) {
        this.#commit(open);
        open = { copies: [], revoked: [] };
        sequence = (sequence + 1) >>> 0;
      } else break;
    }
    return this.#newest;
  }

  /** A block that was revoked has no copy in this transaction or an earlier one: it may be a file's data since. */
  #commit({ copies, revoked }: Transaction): void {
    for (const [block, copy] of copies) this.#newest.set(block, copy);
    for (const block of revoked) this.#newest.delete(block);
  }

  #next(at: number): number {
    return at + 1 < this.#blocks ? at + 1 : this.#first;
  }

  /** The block of the image that is this one of the journal. */
  #place(at: number): number {
    const extent = this.#extents.find(({ logical, count }) => at >= logical && at < logical + count);
    if (extent === undefined) throw new Damage('its journal has a hole');
    return extent.start + at - extent.logical;
  }

  *#tags(block: Buffer): Generator<{ block: number; escaped: boolean }> {
    for (let at = headerBytes; at + this.#tagBytes <= block.length; ) {
      this.#spending.spend('entries');
      const flags = this.#tagBytes === 16 ? block.readUInt32BE(at + 4) : block.readUInt16BE(at + 6);
      const high = this.#wide ? block.readUInt32BE(at + 8) : 0;
      yield { block: block.readUInt32BE(at) + high * 2 ** 32, escaped: (flags & tagFlag.escaped) !== 0 };
      if ((flags & tagFlag.last) !== 0) return;
      at += this.#tagBytes + ((flags & tagFlag.sameUuid) === 0 ? uuidBytes : 0);
    }
  }

  *#revocations(block: Buffer): Generator<number> {
    const bytes = this.#wide ? 8 : 4;
    const end = Math.min(block.readUInt32BE(headerBytes), block.length);
    for (let at = headerBytes + 4; at + bytes <= end; at += bytes) {
      this.#spending.spend('entries');
      yield this.#wide ? block.readUInt32BE(at) * 2 ** 32 + block.readUInt32BE(at + 4) : block.readUInt32BE(at);
    }
  }
}

/** As journal_tag_bytes of the kernel's fs/jbd2/journal.c. */
function tagBytesOf(features: number): number {
  if ((features & feature.checksum3) !== 0) return 16;
  return 8 + ((features & feature.checksum2) !== 0 ? 2 : 0) + ((features & feature.wide) !== 0 ? 4 : 0);
}
