import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openDiskTool } from '../../../../drivers/disk/disk-tool.ts';
import { run } from '../../../../drivers/host/run-process.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-empty-disks-'));
  await mkdir(join(folder, 'none'));
  await mkdir(join(folder, 'some'));
  await writeFile(join(folder, 'some', 'words'), 'some words\n');
});
afterAll(() => rm(folder, { recursive: true }));

const check = (path: string) => run(['e2fsck', '-f', '-n', path], { deadlineMs: 30_000 });
const listing = (path: string) => run(['debugfs', '-R', 'ls -l /', path], { deadlineMs: 30_000 });

test('a second disk of a size is a file system as the first one, and takes as little of the host', async () => {
  const disks = openDiskTool();
  const [first, second, other] = ['first', 'second', 'other'].map((name) => join(folder, name)) as [string, string, string];
  await disks.createDataDisk(first, join(folder, 'none'), 64);
  await disks.createDataDisk(second, join(folder, 'none'), 64);
  await disks.createDataDisk(other, join(folder, 'none'), 32);
  for (const [path, sizeMiB] of [
    [first, 64],
    [second, 64],
    [other, 32],
  ] as const) {
    await check(path);
    expect((await stat(path)).size).toBe(sizeMiB * 2 ** 20);
  }
  expect((await readFile(first)).equals(await readFile(second))).toBe(true);
  expect((await stat(second)).blocks).toBeLessThanOrEqual((await stat(first)).blocks);
});

test('files of a VM are on its own disk alone, whatever was kept before', async () => {
  const disks = openDiskTool();
  const [empty, filled, later] = ['e', 'f', 'l'].map((name) => join(folder, name)) as [string, string, string];
  await disks.createDataDisk(empty, join(folder, 'none'), 64);
  await disks.createDataDisk(filled, join(folder, 'some'), 64);
  await disks.createDataDisk(later, join(folder, 'none'), 64);
  await check(later);
  expect(await listing(filled)).toContain('words');
  expect(await listing(later)).not.toContain('words');
});
