import { closeSync, copyFileSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Spending, usualReadBudget } from '../../../../../drivers/disk/ext4/budget.ts';
import { Ext4Image } from '../../../../../drivers/disk/ext4/image.ts';
import { readJournal } from '../../../../../drivers/disk/ext4/journal.ts';
import { ProcessError, run } from '../../../../../drivers/host/run-process.ts';
import { BerthError } from '../../../../../model/errors.ts';
import { contentOf, type DataDisk, listOf, newDataDisk, pathsOf } from './data-disk.ts';

let disk: DataDisk;
beforeEach(() => {
  disk = newDataDisk();
  disk.put('out/a', 'first');
  disk.put('out/removed', 'x'.repeat(9000));
});
afterEach(() => disk.remove());

/** Several commands of debugfs in one call, since an open journal ends with it. */
async function debugfs(...commands: string[]): Promise<void> {
  const file = join(disk.tree, '..', 'commands');
  writeFileSync(file, `${commands.join('\n')}\n`);
  await run(['debugfs', '-w', '-f', file, disk.image], { deadlineMs: 20_000 });
}

/** Where the blocks of the journal are in the image, by debugfs. */
async function journalPlaces(blockBytes: number): Promise<number[]> {
  return (await disk.debugfs('blocks <8>')).match(/\d+/g)!.map((block) => Number(block) * blockBytes);
}

/** Writes these blocks to the journal as one transaction, as debugfs does it, which leaves out the commit of one that revokes. */
async function leaveInJournal(blocks: [number, Buffer][], checksums: boolean): Promise<void> {
  const file = join(disk.tree, '..', 'transaction');
  writeFileSync(file, Buffer.concat(blocks.map(([, bytes]) => bytes)));
  await debugfs(`jo ${checksums ? '-c' : ''}`, `jw -b ${blocks.map(([block]) => block).join()} ${file}`, 'jc');
}

interface Transaction {
  blocks: [number, Buffer][];
  revoked?: number[];
  committed?: boolean;
}

const magic = 0xc03b3998;

/** The blocks of a transaction in a journal without checksums, as the kernel writes them. */
function blocksOfTransaction({ blocks, revoked = [], committed = true }: Transaction, sequence: number, wide: boolean): Buffer[] {
  const blockBytes = blocks[0]![1].length;
  const headed = (kind: number): Buffer => {
    const block = Buffer.alloc(blockBytes);
    for (const [index, value] of [magic, kind, sequence].entries()) block.writeUInt32BE(value, index * 4);
    return block;
  };
  const descriptor = headed(1);
  let at = 12;
  for (const [index, [block, bytes]] of blocks.entries()) {
    const escaped = bytes.readUInt32BE(0) === magic ? 1 : 0;
    descriptor.writeUInt32BE(block, at);
    descriptor.writeUInt16BE(escaped | (index > 0 ? 2 : 0) | (index === blocks.length - 1 ? 8 : 0), at + 6);
    at += (wide ? 12 : 8) + (index > 0 ? 0 : 16);
  }
  const copies = blocks.map(([, bytes]) => {
    const copy = Buffer.from(bytes);
    if (copy.readUInt32BE(0) === magic) copy.fill(0, 0, 4);
    return copy;
  });
  const revocation = headed(5);
  const entryBytes = wide ? 8 : 4;
  revocation.writeUInt32BE(16 + revoked.length * entryBytes, 12);
  for (const [index, block] of revoked.entries()) revocation.writeUInt32BE(block, 16 + (index + 1) * entryBytes - 4);
  return [descriptor, ...copies, ...(revoked.length > 0 ? [revocation] : []), ...(committed ? [headed(2)] : [])];
}

/** Leaves transactions in the journal, from a block of it on, as a guest that ends before it writes them back. */
async function leaveTransactions(transactions: Transaction[], start: number, wide: boolean): Promise<void> {
  const blockBytes = transactions[0]!.blocks[0]![1].length;
  // Says of the file system that its journal is to be written back.
  await leaveInJournal(transactions[0]!.blocks, false);
  const places = await journalPlaces(blockBytes);
  const head = readFileSync(disk.image).subarray(places[0]!, places[0]! + blockBytes);
  const sequence = 0xffffffff - 1;
  head.writeUInt32BE(sequence, 0x18);
  head.writeUInt32BE(start, 0x1c);
  head.writeUInt32BE(head.readUInt32BE(0x28) | 1, 0x28);
  disk.poke(places[0]!, head);
  const written = transactions.flatMap((one, index) => blocksOfTransaction(one, (sequence + index) >>> 0, wide));
  // It goes on at its first block after its last one.
  for (const [index, block] of written.entries()) disk.poke(places[1 + ((start - 1 + index) % (places.length - 1))]!, block);
}

/** The image as e2fsck makes it, which writes its journal back. */
async function writtenBack(): Promise<string> {
  const copy = `${disk.image}.written-back`;
  copyFileSync(disk.image, copy);
  // Exit code 1: it has corrected something.
  await run(['e2fsck', '-y', '-E', 'journal_only', copy], { deadlineMs: 20_000 }).catch((error) => {
    if (!(error instanceof ProcessError) || error.exitCode !== 1) throw error;
  });
  return copy;
}

/** All blocks, as they are read with the journal. */
function blocksOf(path: string): Buffer[] {
  const fd = openSync(path, 'r');
  try {
    const spending = new Spending({ ...usualReadBudget, files: 1 });
    const image = new Ext4Image(fd, spending);
    if (image.journalInode !== null) image.readCopies(readJournal(image, image.journalInode, spending));
    return Array.from({ length: image.blocks }, (_, block) => Buffer.from(image.readBlock(block)));
  } finally {
    closeSync(fd);
  }
}

const kinds: [string, string[], boolean][] = [
  ['small blocks', ['-b', '1024', '-O', '^64bit'], false],
  ['large blocks', ['-b', '4096', '-O', '^64bit'], false],
  ['wide numbers', ['-b', '1024', '-O', '64bit'], false],
  ['checksums', ['-b', '1024', '-O', '^64bit,metadata_csum'], true],
  ['checksums and wide numbers', ['-b', '4096', '-O', '64bit,metadata_csum'], true],
];

describe.each(kinds)('the journal of a disk with %s', (_name, options, checksums) => {
  const blockBytes = Number(options[1]);
  beforeEach(() => disk.make(24, [...options, '-J', 'size=4']));
  it('has files, folders and removals that were not written back', async () => {
    const before = readFileSync(disk.image);
    const input = join(disk.tree, '..', 'input');
    writeFileSync(input, 'written late');
    await debugfs(`write ${input} out/new`, 'rm out/removed', 'mkdir out/deep', `write ${input} out/deep/b`);
    const after = readFileSync(disk.image);
    const wanted = listOf(disk, ['**']);
    const data = wanted.files.flatMap(({ runs }) => [...runs]).filter((_, index) => index % 3 === 2);
    const changed = Array.from({ length: after.length / blockBytes }, (_, block) => block).filter((block) => {
      const at = block * blockBytes;
      return !before.subarray(at, at + blockBytes).equals(after.subarray(at, at + blockBytes));
    });
    const contentOfBlock = (block: number) => after.subarray(block * blockBytes, (block + 1) * blockBytes);
    // A guest writes the content of files to their blocks, and what describes them to its journal first.
    writeFileSync(disk.image, before);
    const isData = (block: number) => data.includes(block * blockBytes);
    for (const block of changed.filter(isData)) disk.poke(block * blockBytes, contentOfBlock(block));
    const journaled = changed.filter((block) => !isData(block)).map((block): [number, Buffer] => [block, contentOfBlock(block)]);
    await leaveInJournal(journaled, checksums);
    expect(pathsOf(listOf({ image: disk.image }, ['**']))).toEqual(['out/a', 'out/deep/b', 'out/new']);
    const listing = listOf(disk, ['**']);
    expect(listing).toEqual(wanted);
    expect((await contentOf(disk, listing, 'out/deep/b')).toString()).toBe('written late');
  });
});

describe.each(kinds.filter(([, , checksums]) => !checksums))(
  'several transactions in the journal of a disk with %s',
  (_name, options) => {
    const blockBytes = Number(options[1]);
    const wide = options[3]!.startsWith('64bit');
    beforeEach(() => disk.make(24, [...options, '-J', 'size=4']));
    /** Blocks of files, of which no transaction of the disk itself is. */
    const freeBlocks = async (count: number): Promise<number[]> => {
      const found = await disk.debugfs(`ffb ${count} ${Math.floor((20 * 2 ** 20) / blockBytes)}`);
      return found.match(/\d+/g)!.map(Number).slice(0, count);
    };
    const filled = (text: string): Buffer => Buffer.alloc(blockBytes, text);

    it.each([
      ['at its begin', 1],
      ['around its end', (4 * 2 ** 20) / blockBytes - 5],
    ])('are read as e2fsck writes them back, %s', async (_where, start) => {
      const [one = 0, two = 0, three = 0, four = 0, five = 0, six = 0] = await freeBlocks(6);
      // The begin of a block of the journal itself: it is escaped there.
      const escaped = filled('escaped');
      escaped.writeUInt32BE(0xc03b3998, 0);
      await leaveTransactions(
        [
          {
            blocks: [
              [one, filled('old')],
              [two, filled('kept')],
              [three, filled('revoked')],
            ],
          },
          {
            blocks: [
              [one, filled('new')],
              [four, escaped],
            ],
            revoked: [three],
          },
          {
            blocks: [
              [three, filled('again')],
              [five, filled('revoked at last')],
            ],
          },
          { blocks: [[six, filled('six')]], revoked: [five] },
          { blocks: [[two, filled('never committed')]], committed: false },
        ],
        start,
        wide,
      );
      const [read, expected] = [blocksOf(disk.image), blocksOf(await writtenBack())];
      for (const [block, begin] of [
        [one, 'new'],
        [two, 'kept'],
        [three, 'again'],
      ] as const)
        expect(read[block]!.toString('latin1', 0, begin.length)).toBe(begin);
      expect(read[four]).toEqual(escaped);
      // e2fsck empties the journal, and says in the superblock that it has checked.
      for (const block of [one, two, three, four, five, six]) expect(read[block]).toEqual(expected[block]);
      expect(read[five]!.every((byte) => byte === 0)).toBe(true);
    });
  },
);

describe('a journal that a guest made up', () => {
  it('ends, is read, or is refused, whatever its bytes are', async () => {
    await disk.make(8, ['-b', '1024', '-J', 'size=1']);
    const blocks = Array.from({ length: 30 }, (_, index): [number, Buffer] => [5000 + index, Buffer.alloc(1024, 'x')]);
    await leaveTransactions([{ blocks }, { blocks, revoked: [5001] }], 1, false);
    const clean = readFileSync(disk.image);
    const [at = 0] = await journalPlaces(1024);
    const places = fc.integer({ min: 0, max: 40 * 1024 }).map((place) => (place % 3 === 0 ? place % 1100 : place));
    const change = fc.array(fc.tuple(places, fc.nat(255)), { minLength: 1, maxLength: 40 });
    fc.assert(
      fc.property(change, (changes) => {
        const copy = Buffer.from(clean.subarray(at, at + 48 * 1024));
        for (const [place, value] of changes) copy[place] = value;
        disk.poke(at, copy);
        const began = performance.now();
        try {
          const listing = listOf(disk, ['**'], { seconds: 5 });
          expect(listing.files.length).toBeLessThan(10);
        } catch (error) {
          expect(error instanceof BerthError ? error.code : error).toBe('outputs-refused');
        }
        expect(performance.now() - began).toBeLessThan(2000);
      }),
      { numRuns: 200, endOnFailure: true },
    );
  });

  it('that goes round and round in one transaction is read once', async () => {
    await disk.make(8, ['-b', '1024', '-J', 'size=1']);
    const blocks: [number, Buffer][] = [[5000, Buffer.alloc(1024, 'x')]];
    await leaveTransactions([{ blocks }], 1, false);
    const sequence = 0xffffffff - 1;
    // Each of its blocks revokes some 250 others, and it is never committed.
    const [, , revocation] = blocksOfTransaction({ blocks, revoked: [5000], committed: false }, sequence, false);
    revocation!.writeUInt32BE(0xffffffff, 12);
    const places = await journalPlaces(1024);
    for (const place of places.slice(1)) disk.poke(place, revocation!);
    expect(pathsOf(listOf(disk, ['**']))).toEqual(['out/a', 'out/removed']);
    const cut = listOf(disk, ['**'], { entries: 1000 });
    expect(cut.skipped.listed).toMatchObject([{ reason: 'budget-spent' }]);
  });

  it('that says more of itself than can be is refused', async () => {
    await disk.make(8, ['-b', '1024', '-J', 'size=1']);
    await leaveTransactions([{ blocks: [[5000, Buffer.alloc(1024, 'x')]] }], 1, false);
    const [at = 0] = await journalPlaces(1024);
    const whole = readFileSync(disk.image).subarray(at, at + 1024);
    expect(pathsOf(listOf(disk, ['**']))).toEqual(['out/a', 'out/removed']);
    // Its block size, its first block, where it begins, a feature (fast commits), and its signature.
    const wrong: [number, number][] = [
      [0xc, 4096],
      [0x14, 0],
      [0x1c, 0xffffffff],
      [0x28, 0x20],
      [0, 7],
    ];
    for (const [offset, value] of wrong) {
      const head = Buffer.from(whole);
      head.writeUInt32BE(value, offset);
      disk.poke(at, head);
      expect(() => listOf(disk, ['**'])).toThrow(expect.objectContaining({ code: 'outputs-refused' }));
    }
  });
});
