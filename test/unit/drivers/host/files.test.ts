import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readHead, readTail } from '../../../../drivers/host/files.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-files-'));
});
afterAll(() => rm(folder, { recursive: true }));

test.each([
  { content: 'abcdef', head: 'abcd', tail: 'cdef' },
  { content: 'abcd', head: 'abcd', tail: 'abcd' },
  { content: 'ab', head: 'ab', tail: 'ab' },
  { content: '', head: '', tail: '' },
])('four bytes of the begin and the end of "$content"', async ({ content, head, tail }) => {
  const path = join(folder, 'file');
  await writeFile(path, content);
  expect((await readHead(path, 4)).toString()).toBe(head);
  expect((await readTail(path, 4)).toString()).toBe(tail);
});

test('a file that is not there has no bytes', async () => {
  expect(await readHead(join(folder, 'none'), 4)).toHaveLength(0);
  expect(await readTail(join(folder, 'none'), 4)).toHaveLength(0);
});
