import { createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, statSync, symlinkSync, truncateSync, utimesSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { run } from '../../../../../drivers/host/run-process.ts';
import { contentOf, type DataDisk, listOf, newDataDisk, pathsOf } from './data-disk.ts';

const digest = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

describe('the reader of data disks', () => {
  const disk = newDataDisk();
  const contents = new Map<string, Buffer>();
  const put = (path: string, content: Buffer): void => {
    disk.put(path, content);
    contents.set(path, content);
  };
  /** `truncate -s` makes it; `at` has what was written. */
  const putSparse = (path: string, bytes: number, at: Record<number, string>): void => {
    disk.put(path, '');
    const fd = openSync(join(disk.tree, path), 'w');
    for (const [position, text] of Object.entries(at)) writeSync(fd, text, Number(position));
    closeSync(fd);
    truncateSync(join(disk.tree, path), bytes);
  };

  beforeAll(async () => {
    put('empty', Buffer.alloc(0));
    put('one', Buffer.from('x'));
    put('block', Buffer.alloc(4096, 7));
    put('large', Buffer.from(Array.from({ length: 3_000_001 }, (_, index) => (index * 7919) % 251)));
    put('a/b/c/deep', Buffer.from('deep'));
    // Enough names for a hashed folder of several blocks.
    for (let index = 0; index < 600; index += 1) put(`many/${String(index).padStart(120, 'n')}`, Buffer.from(String(index)));
    const sparse = Buffer.alloc(5 * 2 ** 20);
    sparse.write('start', 0);
    sparse.write('middle', 3 * 2 ** 20);
    putSparse('sparse', sparse.length, { 0: 'start', [3 * 2 ** 20]: 'middle' });
    contents.set('sparse', sparse);
    await disk.make();
  });
  afterAll(() => disk.remove());

  it('finds every regular file with its content, and nothing else', async () => {
    const listing = listOf(disk, ['**']);
    expect(pathsOf(listing)).toEqual([...contents.keys()].sort());
    for (const [path, content] of contents)
      expect([path, digest(await contentOf(disk, listing, path))]).toEqual([path, digest(content)]);
    expect(listing.skipped).toEqual({ listed: [], count: 0, lost: 0 });
  });

  it('counts the data of a file with holes, and has its size', () => {
    const [file] = listOf(disk, ['sparse']).files;
    expect(file).toMatchObject({ sizeBytes: 5 * 2 ** 20 });
    expect(file!.dataBytes).toBeLessThanOrEqual(16 * 1024);
  });

  it('takes what is beside a file of 1 GiB that is all hole, which costs a block of none', async () => {
    const other = newDataDisk();
    try {
      other.put('out/a', 'wanted');
      await run(['truncate', '-s', '1G', join(other.tree, 'out/hole')], { deadlineMs: 5000 });
      await other.make();
      const listing = listOf(other, ['out']);
      expect(listing.files).toMatchObject([
        { path: 'out/a', sizeBytes: 6 },
        { path: 'out/hole', sizeBytes: 2 ** 30, dataBytes: 0 },
      ]);
      expect(listing.skipped).toEqual({ listed: [], count: 0, lost: 0 });
      expect((await contentOf(other, listing, 'out/a')).toString()).toBe('wanted');
      // Beside it, no pattern wants it: it is not told of.
      expect(pathsOf(listOf(other, ['out/a']))).toEqual(['out/a']);
    } finally {
      other.remove();
    }
  });

  it('returns as many files as it may, and the number of the others', () => {
    const { files, skipped, matched } = listOf(disk, ['many/*'], { files: 100 });
    expect(files).toHaveLength(100);
    expect(matched).toEqual(['many/*']);
    expect(skipped).toMatchObject({ count: 500, lost: 500, listed: [{ path: '', reason: 'too-many-files' }] });
  });
});

describe('names', () => {
  const withDisk = async (fill: (disk: DataDisk) => void, check: (disk: DataDisk) => Promise<void>): Promise<void> => {
    const disk = newDataDisk();
    try {
      fill(disk);
      await disk.make();
      await check(disk);
    } finally {
      disk.remove();
    }
  };
  const nameOf = (...parts: (string | number)[]): Buffer =>
    Buffer.concat(parts.map((part) => (typeof part === 'number' ? Buffer.from([part]) : Buffer.from(part))));

  it('that differ in a byte which is no UTF-8 are two files', () =>
    withDisk(
      (disk) => {
        disk.put(nameOf('out/a', 0xff), 'first');
        disk.put(nameOf('out/a', 0xfe), 'second');
      },
      async (disk) => {
        const listing = listOf(disk, ['out/*']);
        expect(pathsOf(listing)).toEqual(['out/a\\xfe', 'out/a\\xff']);
        expect((await contentOf(disk, listing, 'out/a\\xff')).toString()).toBe('first');
        expect((await contentOf(disk, listing, 'out/a\\xfe')).toString()).toBe('second');
      },
    ));

  it('with a backslash, a line feed or a control character are files like others', () =>
    withDisk(
      (disk) => {
        for (const name of ['a\\b', 'a\nb', 'a\u0001b', 'ü', 'result[1].txt', 'result1.txt']) disk.put(`out/${name}`, name);
      },
      async (disk) => {
        const listing = listOf(disk, ['out']);
        expect(pathsOf(listing)).toEqual(
          ['out/a\\x01b', 'out/a\\x0ab', 'out/a\\x5cb', 'out/result1.txt', 'out/result[1].txt', 'out/ü'].sort(),
        );
        expect(listing.skipped.count).toBe(0);
        expect(pathsOf(listOf(disk, ['out/result\\[1].txt']))).toEqual(['out/result[1].txt']);
      },
    ));

  it('that make a path too long are skipped alone', () =>
    withDisk(
      (disk) => {
        disk.put(`out/${'d'.repeat(250)}/${'e'.repeat(250)}/${'f'.repeat(250)}/${'g'.repeat(240)}/${'h'.repeat(100)}`, 'long');
        disk.put('out/a', 'a');
      },
      async (disk) => {
        const { files, skipped } = listOf(disk, ['out/**']);
        expect(files.map(({ path }) => path)).toEqual(['out/a']);
        expect(skipped).toMatchObject({ count: 1, lost: 1, listed: [{ reason: 'name-too-long' }] });
      },
    ));

  it('of 70 folders, one in another, are one path', () =>
    withDisk(
      (disk) => disk.put(`${'d/'.repeat(70)}file`, 'x'),
      async (disk) => expect(pathsOf(listOf(disk, ['**/file']))).toEqual([`${'d/'.repeat(70)}file`]),
    ));

  it('in folders that no pattern can lead into are not read', () =>
    withDisk(
      (disk) => {
        disk.put('out/a', 'a');
        for (let index = 0; index < 2000; index += 1) disk.put(`beside/${index}`, '');
        disk.put(`deep/${'d/'.repeat(70)}file`, 'x');
      },
      async (disk) => {
        // Less than a twentieth of the names.
        const { files, skipped } = listOf(disk, ['out/*'], { entries: 100 });
        expect([files.map(({ path }) => path), skipped.count]).toEqual([['out/a'], 0]);
      },
    ));

  it('that are excluded are not taken, nor is what is in an excluded folder read', () =>
    withDisk(
      (disk) => {
        for (const path of ['out/a', 'out/b.tmp', 'out/c/d.tmp', 'out/c/e', 'in/words']) disk.put(path, path);
        for (let index = 0; index < 2000; index += 1) disk.put(`out/cache/${index}`, '');
      },
      async (disk) => {
        const listing = listOf(disk, ['out', '!out/**/*.tmp', '!out/cache'], { entries: 200 });
        expect(pathsOf(listing)).toEqual(['out/a', 'out/c/e']);
      },
    ));
});

describe('what is no regular file', () => {
  const disk = newDataDisk();
  beforeAll(async () => {
    disk.put('out/run-3.txt', 'third');
    disk.put('out/data/x', 'x');
    const link = (target: string, path: string): void => symlinkSync(target, join(disk.tree, path));
    link('run-3.txt', 'out/latest');
    link('../out/data/../latest', 'out/again');
    link('/home/task/out/run-3.txt', 'out/absolute');
    link(`${'./'.repeat(40)}run-3.txt`, 'out/long-target');
    link('data', 'out/folder');
    link('nowhere', 'out/dangling');
    link('/etc/passwd', 'out/outside');
    link('../../../etc/passwd', 'out/above');
    link('loop', 'out/loop');
    await run(['mkfifo', join(disk.tree, 'out/pipe')], { deadlineMs: 5000 });
    mkdirSync(join(disk.tree, 'out/nothing'));
    await disk.make();
  });
  afterAll(() => disk.remove());

  it('is followed where a link leads to a file of the disk, and told otherwise', async () => {
    const listing = listOf(disk, ['out/*']);
    expect(pathsOf(listing)).toEqual(['out/absolute', 'out/again', 'out/latest', 'out/long-target', 'out/run-3.txt']);
    for (const path of pathsOf(listing)) expect((await contentOf(disk, listing, path)).toString()).toBe('third');
    const skipped = Object.fromEntries(listing.skipped.listed.map(({ path, reason, detail }) => [path, `${reason}: ${detail}`]));
    expect(skipped).toEqual({
      'out/folder': 'symbolic-link: it leads to a folder: data',
      'out/dangling': 'symbolic-link: it leads to nothing: nowhere',
      'out/outside': 'symbolic-link: it leads to what is not on the data disk: /etc/passwd',
      'out/above': 'symbolic-link: it leads to what is not on the data disk: ../../../etc/passwd',
      'out/loop': 'symbolic-link: it leads to nothing: loop',
      'out/pipe': 'special-file: it is a device, a pipe or a socket',
    });
    expect(listing.skipped.lost).toBe(0);
  });

  it('is in the lists of folders and links, empty folders too', () => {
    const { folders, links } = listOf(disk, ['out']);
    expect(folders.map(({ path }) => path).sort()).toEqual(['out', 'out/data', 'out/nothing']);
    expect(folders[0]!.mode).toBe(0o755);
    expect(links).toHaveLength(9);
    expect(links).toContainEqual({ path: 'out/latest', target: 'run-3.txt' });
    expect(links).toContainEqual({ path: 'out/outside', target: '/etc/passwd' });
    // Folders that are only passed through have nothing that is selected.
    expect(listOf(disk, ['*/*/x']).folders.map(({ path }) => path)).toEqual(['out/data', 'out']);
    expect(listOf(disk, ['*/none']).folders).toEqual([]);
  });

  it('is not told of where no pattern selects it', () => {
    expect(listOf(disk, ['out/run-*']).skipped.count).toBe(0);
    expect(listOf(disk, ['out/folder/*']).skipped.listed).toMatchObject([{ path: 'out/folder', reason: 'symbolic-link' }]);
  });

  it('leaves files their modes and times', async () => {
    const other = newDataDisk();
    try {
      other.put('tool', 'x');
      await run(['chmod', '0750', join(other.tree, 'tool')], { deadlineMs: 5000 });
      utimesSync(join(other.tree, 'tool'), 1_700_000_000.5, 1_700_000_000.5);
      await other.make();
      const { mode, modifiedMs } = listOf(other, ['tool']).files[0]!;
      expect([mode, Math.floor(modifiedMs / 1000)]).toEqual([0o750, 1_700_000_000]);
      expect(statSync(join(other.tree, 'tool')).mode & 0o777).toBe(0o750);
    } finally {
      other.remove();
    }
  });
});
