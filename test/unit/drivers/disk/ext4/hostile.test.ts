import { readFileSync, statSync, writeFileSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLister } from '../../../../../drivers/disk/ext4/lister.ts';
import { BerthError } from '../../../../../model/errors.ts';
import { contentOf, type DataDisk, listOf, newDataDisk, pathsOf } from './data-disk.ts';
import { writeTree } from './extent-tree.ts';

const never = new AbortController().signal;
const budget = { blocks: 100_000, entries: 1_000_000, files: 100, bytes: 2 ** 20, seconds: 20 };

describe('a disk that a guest made up', () => {
  let disk: DataDisk;
  let clean: Buffer;
  beforeAll(async () => {
    disk = newDataDisk();
    disk.put('out/a', 'a');
    disk.put('out/deep', 'x'.repeat(5000));
    disk.put('out/c/e', 'e');
    await disk.make(64, ['-b', '4096', '-O', '^has_journal']);
    clean = readFileSync(disk.image);
  });
  afterAll(() => disk.remove());
  const restored = (): DataDisk => {
    writeFileSync(disk.image, clean);
    return disk;
  };

  it('with an extent tree of depth 3 whose blocks are the same ones again and again loses that file alone', async () => {
    await writeTree(restored(), '/out/deep', { depth: 3, blocks: 'shared' });
    const listing = listOf(disk, ['out/*']);
    expect(pathsOf(listing)).toEqual(['out/a']);
    expect(listing.skipped.listed).toEqual([
      { path: 'out/deep', reason: 'damaged', detail: 'its extent tree has a block twice' },
    ]);
    expect((await contentOf(disk, listing, 'out/a')).toString()).toBe('a');
  });

  it('with an extent tree of depth 3 and thousands of empty leaves ends within its budget', async () => {
    await writeTree(restored(), '/out/deep', { depth: 3, blocks: 'distinct' });
    const began = performance.now();
    const whole = listOf(disk, ['out/deep']);
    expect(performance.now() - began).toBeLessThan(5000);
    // 340 leaves under each of forty nodes, all of them empty: a file of holes.
    expect(whole.files).toMatchObject([{ path: 'out/deep', dataBytes: 0, sizeBytes: 5000 }]);
    const cut = listOf(disk, ['out/deep'], { blocks: 1000 });
    expect(cut.files).toEqual([]);
    expect(cut.skipped.listed).toMatchObject([
      { path: 'out', reason: 'budget-spent', detail: expect.stringContaining('1000 blocks') },
    ]);
  });

  it('with a folder that is in itself is read once', async () => {
    const number = Number(/Inode: (\d+)/.exec(await restored().debugfs('stat /out'))?.[1]);
    // The entry `c` of the folder `out` leads to `out`.
    const at = clean.indexOf(Buffer.from([1, 2, 0x63]));
    disk.poke(at - 6, Buffer.from(new Uint32Array([number]).buffer));
    const listing = listOf(disk, ['out/**']);
    expect(pathsOf(listing)).toEqual(['out/a', 'out/deep']);
    expect(listing.skipped.listed).toMatchObject([{ path: 'out/c', reason: 'damaged' }]);
  });

  it('is refused where it has no file system that is whole', () => {
    const code = (change: (copy: Buffer) => Buffer): string => {
      writeFileSync(disk.image, change(Buffer.from(clean)));
      try {
        listOf(disk, ['**']);
        return 'read';
      } catch (error) {
        return error instanceof BerthError ? error.code : String(error);
      }
    };
    expect(code((copy) => copy.fill(0, 1024, 2048))).toBe('outputs-refused');
    expect(code((copy) => copy.subarray(0, 2 ** 20))).toBe('outputs-refused');
    expect(code((copy) => copy.subarray(0, 100))).toBe('outputs-refused');
    const unfinished = (copy: Buffer): Buffer => {
      copy.writeUInt32LE(copy.readUInt32LE(1024 + 0x60) | 4, 1024 + 0x60);
      return copy;
    };
    expect(code(unfinished)).toBe('outputs-refused');
  });

  it('gives what can be read of it, or is refused, whatever its bytes are', () => {
    const metadata = clean.subarray(0, 2 ** 20);
    const bytes = fc.array(fc.record({ at: fc.nat(metadata.length - 1), value: fc.nat(255) }), { minLength: 1, maxLength: 200 });
    restored();
    fc.assert(
      fc.property(bytes, fc.boolean(), (changes, early) => {
        const copy = Buffer.from(metadata);
        for (const { at, value } of changes) copy[early ? at % 65_536 : at] = value;
        disk.poke(0, copy);
        try {
          const { files } = listOf(disk, ['**'], budget);
          const { size } = statSync(disk.image);
          for (const { runs, sizeBytes } of files)
            for (let index = 0; index < runs.length; index += 3) {
              const [at = 0, length = 0, from = 0] = runs.slice(index, index + 3);
              expect(at >= 0 && length > 0 && at + length <= sizeBytes && from + length <= size).toBe(true);
            }
        } catch (error) {
          expect(error instanceof BerthError ? error.code : error).toBe('outputs-refused');
        }
      }),
      { numRuns: 30, endOnFailure: true },
    );
  });
});

describe('the thread of a reader', () => {
  const disk = newDataDisk();
  beforeAll(async () => {
    disk.put('out/a', 'content');
    await disk.make(64, ['-b', '4096', '-O', '^has_journal']);
  });
  afterAll(() => disk.remove());
  const lister = createLister();
  const request = { image: disk.image, patterns: ['out/*'], budget };

  it('returns what it found, and refusals with their code', async () => {
    expect((await lister.list(request, never)).files).toMatchObject([{ path: 'out/a', sizeBytes: 7 }]);
    await expect(lister.list({ ...request, image: '/dev/null' }, never)).rejects.toMatchObject({ code: 'outputs-refused' });
    await expect(lister.list({ ...request, image: '/nowhere' }, never)).rejects.toThrow('BUG');
  });

  it('is ended by its signal while it reads', async () => {
    await writeTree(disk, '/out/a', { depth: 3, blocks: 'distinct' });
    const abort = new AbortController();
    const reading = lister.list(request, abort.signal);
    abort.abort(new Error('enough'));
    await expect(reading).rejects.toThrow('enough');
    await expect(lister.list(request, abort.signal)).rejects.toThrow('enough');
  });

  it('that does not end by itself is ended: its disk is a skipped row', async () => {
    const stuck = createLister({ script: new URL('./endless-thread.ts', import.meta.url), graceMs: 50 });
    const listing = await stuck.list({ ...request, budget: { ...budget, seconds: 0.05 } }, never);
    expect(listing).toMatchObject({ files: [], skipped: { lost: 1, listed: [{ path: '', reason: 'budget-spent' }] } });
  });

  it('that takes more memory than it may is a skipped row, and the host worker lives', async () => {
    const greedy = createLister({ script: new URL('./greedy-thread.ts', import.meta.url), heapMiB: 32 });
    const listing = await greedy.list(request, never);
    expect(listing).toMatchObject({ files: [], skipped: { lost: 1, listed: [{ reason: 'budget-spent' }] } });
  });
});
