import type { FileHandle } from 'node:fs/promises';
import { BerthError } from '../../model/errors.ts';
import type { DiskFile } from '../ports/disk-tool.ts';

/**
 * Reads files out of an ext4 image that a guest wrote (https://docs.kernel.org/filesystems/ext4/). Nothing in it is
 * trusted: every number is checked against the image's size, every loop is bounded, and unknown features are refused.
 * The image is only read: the worst that a hostile guest can do is to choose the content of its own outputs.
 */
const signature = 0xef53;
const superblockAt = 1024;
const rootInode = 2;
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
const extentsFlag = 0x80000;
const extentSignature = 0xf30a;
const regular = 0x8000;
const directory = 0x4000;

/** Limits of the depth of folders and of extent trees, and of the bytes of all folders together. */
const maxDepth = 64;
const maxTreeDepth = 5;
const maxDirectoryBytes = 128 * 2 ** 20;
const maxExtents = 1_000_000;
const chunkBytes = 1024 * 1024;

interface Geometry {
  blockBytes: number;
  blocks: number;
  inodes: number;
  inodesPerGroup: number;
  inodeBytes: number;
  descriptorBytes: number;
  descriptorsAt: number;
}

interface Inode {
  mode: number;
  sizeBytes: number;
  flags: number;
  root: Buffer;
}

/** A run of blocks; `start` is null where nothing was written: it reads as zeros. */
interface Extent {
  logical: number;
  count: number;
  start: number | null;
}

const refused = (why: string): BerthError => new BerthError('outputs-refused', `reading the data disk: ${why}`);

async function readAt(image: FileHandle, position: number, length: number): Promise<Buffer> {
  if (!Number.isSafeInteger(position) || position < 0) throw refused(`position ${position} is outside the image`);
  const buffer = Buffer.alloc(length);
  const { bytesRead } = await image.read(buffer, 0, length, position);
  if (bytesRead !== length) throw refused(`it ends before byte ${position + length}`);
  return buffer;
}

async function readGeometry(image: FileHandle): Promise<Geometry> {
  const block = await readAt(image, superblockAt, 1024);
  if (block.readUInt16LE(0x38) !== signature) throw refused('it has no ext4 file system any more');
  const features = block.readUInt32LE(0x60);
  if ((features & ~known) !== 0) throw refused(`it has unknown features: 0x${(features & ~known).toString(16)}`);
  if ((features & incompatible.recover) !== 0) throw refused('its journal was not written back');
  const blockShift = block.readUInt32LE(0x18);
  if (blockShift > 6) throw refused(`its blocks have 2^${blockShift + 10} bytes`);
  const wide = (features & incompatible.bits64) !== 0;
  const blockBytes = 1024 << blockShift;
  const blocks = block.readUInt32LE(0x4) + (wide ? block.readUInt32LE(0x150) * 2 ** 32 : 0);
  const inodeBytes = block.readUInt16LE(0x58);
  const inodesPerGroup = block.readUInt32LE(0x28);
  const { size } = await image.stat();
  if (
    inodesPerGroup === 0 ||
    inodeBytes < 128 ||
    inodeBytes > blockBytes ||
    (inodeBytes & (inodeBytes - 1)) !== 0 ||
    blocks * blockBytes > size
  )
    throw refused('its superblock makes no sense');
  const descriptorBytes = wide ? block.readUInt16LE(0xfe) : 32;
  if (descriptorBytes < 32 || descriptorBytes > 1024) throw refused('its superblock makes no sense');
  return {
    blockBytes,
    blocks,
    inodes: block.readUInt32LE(0x0),
    inodesPerGroup,
    inodeBytes,
    descriptorBytes,
    descriptorsAt: (block.readUInt32LE(0x14) + 1) * blockBytes,
  };
}

async function readInode(image: FileHandle, geometry: Geometry, number: number): Promise<Inode> {
  if (number < 1 || number > geometry.inodes) throw refused(`there is no inode ${number}`);
  const group = Math.floor((number - 1) / geometry.inodesPerGroup);
  const descriptor = await readAt(image, geometry.descriptorsAt + group * geometry.descriptorBytes, geometry.descriptorBytes);
  const high = geometry.descriptorBytes >= 64 ? descriptor.readUInt32LE(0x28) : 0;
  const table = descriptor.readUInt32LE(0x8) + high * 2 ** 32;
  const position = table * geometry.blockBytes + ((number - 1) % geometry.inodesPerGroup) * geometry.inodeBytes;
  const inode = await readAt(image, position, 128);
  return {
    mode: inode.readUInt16LE(0),
    sizeBytes: inode.readUInt32LE(0x4) + inode.readUInt32LE(0x6c) * 2 ** 32,
    flags: inode.readUInt32LE(0x20),
    root: inode.subarray(0x28, 0x28 + 60),
  };
}

/** The runs of blocks of a file, in order, without overlap. */
async function readExtents(image: FileHandle, geometry: Geometry, inode: Inode): Promise<Extent[]> {
  if ((inode.flags & extentsFlag) === 0) {
    if (inode.sizeBytes === 0) return [];
    throw refused('it has a file without extents');
  }
  const found: Extent[] = [];
  const visit = async (node: Buffer, expectedDepth: number | null): Promise<void> => {
    const entries = node.readUInt16LE(2);
    const depth = node.readUInt16LE(6);
    if (node.readUInt16LE(0) !== extentSignature || 12 + entries * 12 > node.length) throw refused('an extent tree is damaged');
    if (depth > maxTreeDepth || (expectedDepth !== null && depth !== expectedDepth)) throw refused('an extent tree is damaged');
    for (let index = 0; index < entries; index += 1) {
      const at = 12 + index * 12;
      if (depth === 0) found.push(leaf(node, at, geometry));
      else {
        const block = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 2 ** 32;
        if (block >= geometry.blocks) throw refused('an extent tree leads out of the image');
        await visit(await readAt(image, block * geometry.blockBytes, geometry.blockBytes), depth - 1);
      }
      if (found.length > maxExtents) throw refused(`a file has more than ${maxExtents} extents`);
    }
  };
  await visit(inode.root, null);
  for (const [index, extent] of found.entries()) {
    const before = found[index - 1];
    if (before !== undefined && before.logical + before.count > extent.logical) throw refused('an extent tree is out of order');
  }
  return found;
}

function leaf(node: Buffer, at: number, geometry: Geometry): Extent {
  const length = node.readUInt16LE(at + 4);
  // Above 32768 the run is allocated but was never written.
  const written = length <= 32_768;
  const count = written ? length : length - 32_768;
  const start = node.readUInt32LE(at + 8) + node.readUInt16LE(at + 6) * 2 ** 32;
  if (count === 0 || start + count > geometry.blocks) throw refused('an extent leads out of the image');
  return { logical: node.readUInt32LE(at), count, start: written ? start : null };
}

/** The bytes of a file in order, holes as zeros, exactly `sizeBytes` of them. */
async function* readContent(image: FileHandle, geometry: Geometry, extents: Extent[], sizeBytes: number): AsyncGenerator<Buffer> {
  let position = 0;
  const zeroes = function* (until: number): Generator<Buffer> {
    while (position < until) {
      const length = Math.min(chunkBytes, until - position);
      position += length;
      yield Buffer.alloc(length);
    }
  };
  for (const extent of extents) {
    if (position >= sizeBytes) break;
    const begin = extent.logical * geometry.blockBytes;
    const end = Math.min(sizeBytes, begin + extent.count * geometry.blockBytes);
    yield* zeroes(Math.min(begin, sizeBytes));
    if (extent.start === null) yield* zeroes(end);
    while (position < end) {
      const length = Math.min(chunkBytes, end - position);
      const at: number = extent.start === null ? 0 : extent.start * geometry.blockBytes + (position - begin);
      yield await readAt(image, at, length);
      position += length;
    }
  }
  yield* zeroes(sizeBytes);
}

interface Entry {
  name: string;
  inode: number;
}

/** Entries of one block of a folder. Inner blocks of a hash tree have the form of entries of inode 0, so that a linear read is enough. */
function parseDirectory(block: Buffer): Entry[] {
  const entries: Entry[] = [];
  for (let at = 0; at + 8 <= block.length; ) {
    const inode = block.readUInt32LE(at);
    const length = block.readUInt16LE(at + 4);
    const nameBytes = block.readUInt8(at + 6);
    if (length < 8 || length % 4 !== 0 || at + length > block.length || nameBytes + 8 > length)
      throw refused('a folder is damaged');
    const name = block.toString('utf8', at + 8, at + 8 + nameBytes);
    if (inode !== 0 && name !== '.' && name !== '..') entries.push({ name, inode });
    at += length;
  }
  return entries;
}

/** Every regular file, with its path. A folder that is reached twice is refused, so that a loop in the image ends. */
export async function listExt4(image: FileHandle, limitFiles: number): Promise<DiskFile[]> {
  const geometry = await readGeometry(image);
  const files: DiskFile[] = [];
  const entered = new Set<number>();
  let directoryBytes = 0;
  const visitDirectory = async (number: number, inode: Inode, path: string, depth: number): Promise<void> => {
    if (entered.has(number)) throw refused(`folder ${JSON.stringify(path)} is in two places`);
    entered.add(number);
    directoryBytes += inode.sizeBytes;
    if (depth > maxDepth || directoryBytes > maxDirectoryBytes || inode.sizeBytes % geometry.blockBytes !== 0)
      throw refused('its folders are too many, too deep or damaged');
    const extents = await readExtents(image, geometry, inode);
    // Chunks are whole blocks, since a folder is.
    for await (const chunk of readContent(image, geometry, extents, inode.sizeBytes))
      for (let at = 0; at < chunk.length; at += geometry.blockBytes)
        for (const entry of parseDirectory(chunk.subarray(at, at + geometry.blockBytes))) await visitEntry(entry, path, depth);
  };
  const visitEntry = async (entry: Entry, folder: string, depth: number): Promise<void> => {
    if (depth === 0 && entry.name === 'lost+found') return;
    const path = folder === '' ? entry.name : `${folder}/${entry.name}`;
    const inode = await readInode(image, geometry, entry.inode);
    const kind = inode.mode & 0xf000;
    if (kind === directory) await visitDirectory(entry.inode, inode, path, depth + 1);
    else if (kind === regular) {
      files.push({ path, inode: entry.inode, sizeBytes: inode.sizeBytes });
      if (files.length > limitFiles) throw refused(`it has more than ${limitFiles} files`);
    }
  };
  await visitDirectory(rootInode, await readInode(image, geometry, rootInode), '', 0);
  return files;
}

/** The content of a file that `listExt4` found: exactly its `sizeBytes`. */
export async function* readExt4(image: FileHandle, file: DiskFile): AsyncGenerator<Buffer> {
  const geometry = await readGeometry(image);
  const inode = await readInode(image, geometry, file.inode);
  if ((inode.mode & 0xf000) !== regular || inode.sizeBytes !== file.sizeBytes)
    throw refused(`${JSON.stringify(file.path)} changed while it was read`);
  yield* readContent(image, geometry, await readExtents(image, geometry, inode), file.sizeBytes);
}
