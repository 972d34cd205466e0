import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createProgram } from '../../cli/program.ts';
import { type RunningApi, startApi } from './running-api.ts';

let api: RunningApi;
let folder: string;
beforeAll(async () => {
  api = await startApi();
  folder = await mkdtemp(join(tmpdir(), 'berth-tree-cli-'));
});
afterAll(async () => {
  await api.end();
  await rm(folder, { recursive: true });
});

/** Runs a command in this process; returns what it has printed. */
async function berth(...args: string[]): Promise<Buffer> {
  const out = new PassThrough();
  const printed = buffer(out);
  const program = createProgram((options) => ({
    connect: () => ({ api: api.base, key: api.alice.key }),
    output: () => ({ out, err: new PassThrough().resume(), json: options().json ?? false }),
  }));
  try {
    await program.parseAsync(['node', 'berth', ...args]);
  } finally {
    out.end();
  }
  return printed;
}
const json = async <T>(...args: string[]): Promise<T> => JSON.parse(String(await berth('--json', ...args))) as T;

/** The files of a folder of this machine with their content, by names as bytes in hexadecimal. */
async function filesIn(path: Buffer | string, below = ''): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(path as Buffer, { withFileTypes: true, encoding: 'buffer' })) {
    const at = Buffer.concat([Buffer.from(path), Buffer.from('/'), entry.name]);
    const name = `${below}${entry.name.toString('hex')}`;
    if (entry.isDirectory()) Object.assign(found, await filesIn(at, `${name}/`));
    else found[name] = await readFile(at, 'utf8');
  }
  return found;
}

test('a file is put, described, listed, changed, moved, deleted and restored', async () => {
  const local = join(folder, 'words.txt');
  await writeFile(local, 'one two');
  expect(String(await berth('tree', 'put', local, 'in/', '--meta', 'run=17', '--expires', '2030-01-01T00:00:00Z'))).toBe(
    'in/words.txt\n',
  );
  await expect(berth('tree', 'put', local, 'in/words.txt', '--new')).rejects.toThrow('precondition-failed');
  expect(await json('tree', 'show', 'in/words.txt')).toMatchObject({ metadata: { run: '17' }, sizeBytes: 7 });
  expect(await json('tree', 'set', 'in/words.txt', '--meta', 'run=', '--expires', 'never')).toMatchObject({
    metadata: {},
    expiresAt: null,
  });
  await berth('tree', 'mkdir', 'empty');
  expect(String(await berth('tree', 'ls'))).toMatch(/ empty\/\n.* in\/\n.* tasks\/\n$/);
  await berth('tree', 'cp', 'in', 'copy');
  await berth('tree', 'mv', 'copy/words.txt', 'moved');
  expect(String(await berth('tree', 'get', 'moved', '-o', '-'))).toBe('one two');
  await berth('tree', 'rm', 'moved');
  await expect(berth('tree', 'rm', 'in')).rejects.toThrow('conflict');
  await berth('tree', 'rm', '-r', 'in');
  const [inFolder, moved] = await json<{ id: string; path: string }[]>('trash', 'ls');
  expect([inFolder?.path, moved?.path]).toEqual(['in', 'moved']);
  await berth('trash', 'restore', moved!.id, '--to', 'back');
  await berth('trash', 'rm', inFolder!.id);
  expect((await json<{ path: string }[]>('tree', 'ls', '--prefix', '')).map(({ path }) => path)).toEqual([
    'back',
    'copy',
    'empty',
  ]);
  const file = await api.put(api.alice, 'stored', 'stored');
  await berth('tree', 'link', file.id, 'back', '--replace');
  expect(String(await berth('tree', 'get', 'back', '-o', '-'))).toBe('stored');
  await berth('expiry', 'add', 'tmp/', '7d');
  const [rule] = await json<{ id: string; prefix: string; afterS: number }[]>('expiry', 'ls');
  expect(rule).toMatchObject({ prefix: 'tmp/', afterS: 7 * 86_400 });
  await berth('expiry', 'rm', rule!.id);
  expect(await json('expiry', 'ls')).toEqual([]);
});

test('a folder with names of any bytes goes there and comes back byte by byte', async () => {
  const local = join(folder, 'odd');
  const names = ['plain', 'a\nb', 'back\\slash', ' ', '-rf', '%2e', 'é'].map((name) => Buffer.from(name));
  names.push(Buffer.from([0xff, 0xfe]), Buffer.alloc(255, 0x61), Buffer.alloc(255, 0xff));
  const inside = Buffer.concat([Buffer.from(local), Buffer.from('/sub\\dir'), Buffer.from([0xe9])]);
  await mkdir(inside, { recursive: true });
  for (const name of names) {
    await writeFile(Buffer.concat([Buffer.from(`${local}/`), name]), `content of ${name.toString('hex')}`);
    await writeFile(Buffer.concat([inside, Buffer.from('/'), name]), name);
  }
  expect(String(await berth('tree', 'put', local, 'odd'))).toBe('20 files\n');
  await berth('tree', 'get', 'odd', '-r', '-o', join(folder, 'back'));
  expect(await filesIn(join(folder, 'back'))).toEqual(await filesIn(local));
  const tar = await berth('tree', 'get', 'odd', '-o', '-');
  expect(tar.length % 512).toBe(0);
});
