import type { DataDisk } from './data-disk.ts';

const blockBytes = 4096;
/** Blocks that mkfs leaves free on a disk of 64 MiB without a journal. */
const firstFree = 2600;
const perNode = 340;

function nodeOf(entries: number[], depth: number): Buffer {
  const node = Buffer.alloc(blockBytes);
  node.writeUInt16LE(0xf30a, 0);
  node.writeUInt16LE(entries.length, 2);
  node.writeUInt16LE(perNode, 4);
  node.writeUInt16LE(depth, 6);
  for (const [index, block] of entries.entries()) {
    node.writeUInt32LE(index, 12 + index * 12);
    node.writeUInt32LE(block, 16 + index * 12);
  }
  return node;
}

/**
 * Gives a file an extent tree of inner nodes over leaves without extents. `shared`: each level is one block, named 340
 * times, which is 340 ** depth visits; `distinct`: forty nodes above 340 leaves each, no block twice.
 */
export async function writeTree(
  disk: DataDisk,
  path: string,
  { depth, blocks }: { depth: number; blocks: 'shared' | 'distinct' },
): Promise<void> {
  let free = firstFree;
  const write = (node: Buffer): number => {
    disk.poke(free * blockBytes, node);
    free += 1;
    return free - 1;
  };
  let level: number[];
  if (blocks === 'shared') {
    level = [write(nodeOf([], 0))];
    for (let at = 1; at < depth; at += 1) level = [write(nodeOf(Array(perNode).fill(level[0]), at))];
    level = Array(4).fill(level[0]);
  } else {
    // Leaves are written in one piece.
    const leaves = Array.from({ length: 40 * perNode }, (_, index) => free + index);
    disk.poke(free * blockBytes, Buffer.concat(leaves.map(() => nodeOf([], 0))));
    free += leaves.length;
    const nodes = Array.from({ length: 40 }, (_, index) =>
      write(nodeOf(leaves.slice(index * perNode, (index + 1) * perNode), 1)),
    );
    level = [write(nodeOf(nodes, 2))];
  }
  const root = nodeOf(level, depth).subarray(0, 60);
  root.writeUInt16LE(4, 4);
  disk.poke((await inodeAt(disk, path)) + 0x28, root);
}

async function inodeAt(disk: DataDisk, path: string): Promise<number> {
  const answer = await disk.debugfs(`imap ${path}`);
  const [, block, offset] = /located at block (\d+), offset (0x[0-9a-f]+)/i.exec(answer) ?? [];
  if (block === undefined) throw new Error(`BUG: debugfs said ${answer}`);
  return Number(block) * blockBytes + Number(offset);
}
