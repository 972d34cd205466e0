import { randomBytes } from 'node:crypto';
import { mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { chunksOf, mostBytes } from '../../drivers/chunks.ts';
import { readPack, writePack } from '../../drivers/pack.ts';

let folder: string;
const at = (name: string): string => join(folder, name);
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-pack-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function chunked(path: string): Promise<{ hash: string; length: number }[]> {
  const handle = await open(path, 'r');
  try {
    const chunks = [];
    for await (const { hash, length } of chunksOf(handle)) chunks.push({ hash, length });
    return chunks;
  } finally {
    await handle.close();
  }
}

const hashes = async (path: string): Promise<Set<string>> => new Set((await chunked(path)).map(({ hash }) => hash));

const meter = () => ({ doneBytes: 0, totalBytes: 0 });

/** Packs a file for a host that has `kept`, makes it anew from that, and says how large the pack was. */
async function carried(content: Buffer, kept: Buffer | null): Promise<number> {
  await writeFile(at('source'), content);
  if (kept !== null) await writeFile(at('kept'), kept);
  const have = kept === null ? new Set<string>() : await hashes(at('kept'));
  const [packing, unpacking] = [meter(), meter()];
  await writePack(at('pack'), [{ name: 'memory', path: at('source') }], have, packing);
  await readPack(at('pack'), kept === null ? [] : [at('kept')], () => at('made'), unpacking);
  const gone = content.length + (kept?.length ?? 0);
  expect([packing, unpacking]).toEqual([content.length, gone].map((bytes) => ({ doneBytes: bytes, totalBytes: bytes })));
  expect((await readFile(at('made'))).equals(content)).toBe(true);
  return (await stat(at('pack'))).size;
}

describe('a file cut into chunks', () => {
  it('is the sum of them, and none is too large', async () => {
    const content = randomBytes(9 * 2 ** 20 + 17);
    await writeFile(at('source'), content);
    const chunks = await chunked(at('source'));
    expect(chunks.reduce((sum, { length }) => sum + length, 0)).toBe(content.length);
    expect(Math.max(...chunks.map(({ length }) => length))).toBeLessThanOrEqual(mostBytes);
  });

  it('has the same chunks again behind bytes that were put in or taken out', async () => {
    const content = randomBytes(4 * 2 ** 20);
    await writeFile(at('source'), content);
    const before = await hashes(at('source'));
    await writeFile(
      at('source'),
      Buffer.concat([randomBytes(8), content.subarray(0, 2 ** 20), content.subarray(2 ** 20 + 4104)]),
    );
    const after = [...(await hashes(at('source')))];
    expect(after.filter((hash) => before.has(hash)).length).toBeGreaterThan(after.length * 0.95);
  });

  it('of nothing has none', async () => {
    await writeFile(at('source'), '');
    expect(await chunked(at('source'))).toEqual([]);
  });
});

describe('a packed file', () => {
  it('is made again, byte by byte, where nothing is kept', async () => {
    const content = randomBytes(3 * 2 ** 20);
    expect(await carried(content, null)).toBeGreaterThan(content.length * 0.95);
    await carried(Buffer.alloc(0), null);
    await carried(Buffer.from('short'), null);
  });

  it('carries only what is new to a host that keeps an older version', async () => {
    const old = randomBytes(8 * 2 ** 20);
    const content = Buffer.concat([old.subarray(0, 3 * 2 ** 20), randomBytes(100_000), old.subarray(3 * 2 ** 20)]);
    expect(await carried(content, old)).toBeLessThan(300_000);
    expect(await carried(old, old)).toBeLessThan(30_000);
  });

  it('carries what repeats once, and leaves zeros as holes', async () => {
    const part = randomBytes(2 ** 20);
    const size = await carried(Buffer.concat([part, part, Buffer.alloc(64 * 2 ** 20), part]), null);
    expect(size).toBeLessThan(1.3 * 2 ** 20);
    expect((await stat(at('made'))).blocks * 512).toBeLessThan(8 * 2 ** 20);
  });

  it('that is damaged is refused, and leaves nothing', async () => {
    await writeFile(at('source'), randomBytes(2 ** 20));
    await writePack(at('pack'), [{ name: 'memory', path: at('source') }], new Set(), meter());
    await rm(at('made'), { force: true });
    const bytes = await readFile(at('pack'));
    await writeFile(at('pack'), bytes.subarray(0, bytes.length / 2));
    await expect(readPack(at('pack'), [], () => at('made'), meter())).rejects.toThrow();
    for (const name of ['made', 'made.unpacking']) await expect(stat(at(name))).rejects.toThrow('ENOENT');
  });
});
