import { createHash } from 'node:crypto';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { copyFile, open, readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { listExt4, readExt4 } from '../../../../drivers/disk/ext4.ts';
import { run } from '../../../../drivers/host/run-process.ts';
import { BerthError } from '../../../../model/errors.ts';

let folder: string;
let image: string;
const contents = new Map<string, Buffer>();

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'berth-ext4-'));
  const tree = join(folder, 'tree');
  const put = (path: string, content: Buffer): void => {
    mkdirSync(join(tree, path, '..'), { recursive: true });
    writeFileSync(join(tree, path), content);
    contents.set(path, content);
  };
  put('empty', Buffer.alloc(0));
  put('one', Buffer.from('x'));
  put('block', Buffer.alloc(4096, 7));
  put('large', Buffer.from(Array.from({ length: 3_000_001 }, (_, index) => (index * 7919) % 251)));
  put('a/b/c/deep', Buffer.from('deep'));
  put('odd/ a\nb', Buffer.from('newline'));
  put('odd/ümläut', Buffer.from('utf8'));
  // Enough names for a hashed folder of several blocks.
  for (let index = 0; index < 600; index += 1) put(`many/${String(index).padStart(120, 'n')}`, Buffer.from(String(index)));
  // With holes in the middle and at the end.
  const sparse = Buffer.alloc(5 * 2 ** 20);
  sparse.write('start', 0);
  sparse.write('middle', 3 * 2 ** 20);
  put('sparse', Buffer.alloc(0));
  const handle = openSync(join(tree, 'sparse'), 'w');
  writeSync(handle, 'start', 0);
  writeSync(handle, 'middle', 3 * 2 ** 20);
  closeSync(handle);
  truncateSync(join(tree, 'sparse'), sparse.length);
  contents.set('sparse', sparse);
  symlinkSync('/etc/passwd', join(tree, 'link'));
  await run(['mkfifo', join(tree, 'pipe')], { deadlineMs: 5000 });
  image = join(folder, 'image');
  writeFileSync(image, '');
  truncateSync(image, 24 * 2 ** 20);
  await run(['mkfs.ext4', '-q', '-F', '-d', tree, image], { deadlineMs: 20_000 });
});
afterAll(() => rmSync(folder, { recursive: true }));

const digest = (content: Buffer): string => createHash('sha256').update(content).digest('hex');

async function readAll(path: string, limitFiles = 10_000, limitBytes = 2 ** 26): Promise<Map<string, Buffer>> {
  const handle = await open(path, 'r');
  try {
    const found = new Map<string, Buffer>();
    for (const file of await listExt4(handle, limitFiles)) {
      const chunks: Buffer[] = [];
      let bytes = 0;
      for await (const chunk of readExt4(handle, file)) {
        bytes += chunk.length;
        if (bytes < limitBytes) chunks.push(chunk);
        else break;
      }
      found.set(file.path, Buffer.concat(chunks));
    }
    return found;
  } finally {
    await handle.close();
  }
}

describe('the reader of data disks', () => {
  it('finds every regular file with its content, and nothing else', async () => {
    const found = await readAll(image);
    expect([...found.keys()].sort()).toEqual([...contents.keys()].sort());
    for (const [path, content] of contents) expect([path, digest(found.get(path)!)]).toEqual([path, digest(content)]);
  });

  it('stops at more files than it may list', async () => {
    await expect(readAll(image, 100)).rejects.toThrow('more than 100 files');
  });

  it('refuses what is no ext4, what was truncated, and what was not written completely', async () => {
    const bytes = await readFile(image);
    const refused = async (change: (copy: Buffer) => Buffer): Promise<string> => {
      const path = join(folder, 'changed');
      writeFileSync(path, change(Buffer.from(bytes)));
      return readAll(path).then(
        () => 'read',
        (error: unknown) => (error instanceof BerthError ? error.code : String(error)),
      );
    };
    expect(await refused((copy) => copy.fill(0, 1024, 2048))).toBe('outputs-refused');
    expect(await refused((copy) => copy.subarray(0, 2 ** 20))).toBe('outputs-refused');
    const unfinished = (copy: Buffer): Buffer => {
      copy.writeUInt32LE(copy.readUInt32LE(1024 + 0x60) | 4, 1024 + 0x60);
      return copy;
    };
    expect(await refused(unfinished)).toBe('outputs-refused');
  });

  it('ends, with the content or a refusal, whatever a guest made of the image', async () => {
    // The location of the metadata: superblock, descriptors, inode tables and folders come first.
    const metadata = (await readFile(image)).subarray(0, 2 ** 20);
    const path = join(folder, 'hostile');
    await copyFile(image, path);
    const handle = await open(path, 'r+');
    const places = fc.array(fc.record({ at: fc.nat(metadata.length - 1), value: fc.nat(255) }), { minLength: 1, maxLength: 200 });
    await fc.assert(
      fc.asyncProperty(places, fc.boolean(), async (changes, early) => {
        const copy = Buffer.from(metadata);
        for (const { at, value } of changes) copy[early ? at % 65_536 : at] = value;
        await handle.write(copy, 0, copy.length, 0);
        const outcome = await readAll(path, 10_000, 2 ** 18).then(
          () => 'read',
          (error: unknown) => (error instanceof BerthError ? error.code : String(error)),
        );
        expect(['read', 'outputs-refused']).toContain(outcome);
      }),
      { numRuns: 10, endOnFailure: true },
    );
    await handle.close();
  });
});
