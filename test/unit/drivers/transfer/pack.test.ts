import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { maxChunkBytes, readChunks } from '../../../../drivers/transfer/content-chunks.ts';
import { chunkFile } from '../../../../drivers/transfer/file-chunks.ts';
import { PreviousVersionDamaged, type PreviousVersionFile, readPack, writePack } from '../../../../drivers/transfer/pack.ts';
import { keepPreviousVersion, readPreviousVersion } from '../../../../drivers/transfer/previous-version.ts';

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
    for await (const { hash, length } of readChunks(handle)) chunks.push({ hash, length });
    return chunks;
  } finally {
    await handle.close();
  }
}

const hashes = async (path: string): Promise<Set<string>> => new Set((await chunked(path)).map(({ hash }) => hash));

const meter = () => ({ doneBytes: 0, totalBytes: 0 });

async function keptAt(path: string): Promise<PreviousVersionFile> {
  const handle = await open(path, 'r');
  try {
    return { path, chunks: await chunkFile('memory', handle) };
  } finally {
    await handle.close();
  }
}

/** Packs a file for a host that has `kept`, rebuilds it from that, and returns the size of the pack. */
async function carried(content: Buffer, kept: Buffer | null): Promise<number> {
  await writeFile(at('source'), content);
  if (kept !== null) await writeFile(at('kept'), kept);
  const have = kept === null ? new Set<string>() : await hashes(at('kept'));
  const [packing, unpacking] = [meter(), meter()];
  await writePack(at('pack'), [{ name: 'memory', path: at('source') }], have, packing);
  await readPack(at('pack'), kept === null ? [] : [await keptAt(at('kept'))], () => at('made'), unpacking);
  for (const pass of [packing, unpacking]) expect(pass).toEqual({ doneBytes: content.length, totalBytes: content.length });
  expect((await readFile(at('made'))).equals(content)).toBe(true);
  return (await stat(at('pack'))).size;
}

describe('a file cut into chunks', () => {
  it('is the sum of them, and none is too large', async () => {
    const content = randomBytes(9 * 2 ** 20 + 17);
    await writeFile(at('source'), content);
    const chunks = await chunked(at('source'));
    expect(chunks.reduce((sum, { length }) => sum + length, 0)).toBe(content.length);
    expect(Math.max(...chunks.map(({ length }) => length))).toBeLessThanOrEqual(maxChunkBytes);
  });

  it('has the same chunks again after bytes that were inserted or removed', async () => {
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
  it('is rebuilt, byte by byte, where no older version exists', async () => {
    const content = randomBytes(3 * 2 ** 20);
    expect(await carried(content, null)).toBeGreaterThan(content.length * 0.95);
    await carried(Buffer.alloc(0), null);
    await carried(Buffer.from('short'), null);
  });

  it('contains only what is new to a host that keeps an older version', async () => {
    const old = randomBytes(8 * 2 ** 20);
    const content = Buffer.concat([old.subarray(0, 3 * 2 ** 20), randomBytes(100_000), old.subarray(3 * 2 ** 20)]);
    expect(await carried(content, old)).toBeLessThan(300_000);
    expect(await carried(old, old)).toBeLessThan(30_000);
  });

  it('contains repeated chunks once, and leaves zeros as holes', async () => {
    const part = randomBytes(2 ** 20);
    const size = await carried(Buffer.concat([part, part, Buffer.alloc(64 * 2 ** 20), part]), null);
    expect(size).toBeLessThan(1.3 * 2 ** 20);
    expect((await stat(at('made'))).blocks * 512).toBeLessThan(8 * 2 ** 20);
  });

  it('is rebuilt wherever old and new chunks repeat', async () => {
    const [a, b, c] = [randomBytes(300_000), randomBytes(70_000), randomBytes(900_000)];
    const gap = Buffer.alloc(200_000);
    const old = Buffer.concat([c, gap, a, b, a]);
    for (const parts of [
      [a, a, b, gap, a, b, b, c, a],
      [gap, b, c.subarray(500_000), a, gap, gap, b, a],
      [b, a.subarray(17), gap, b, c, c],
    ]) {
      await carried(Buffer.concat(parts), old);
      await carried(Buffer.concat(parts), null);
    }
  });

  it('that is damaged is refused, and leaves nothing', async () => {
    await writeFile(at('source'), randomBytes(2 ** 20));
    await writePack(at('pack'), [{ name: 'memory', path: at('source') }], new Set(), meter());
    await rm(at('made'), { force: true });
    const bytes = await readFile(at('pack'));
    await writeFile(at('pack'), bytes.subarray(0, bytes.length / 2));
    await expect(readPack(at('pack'), [], () => at('made'), meter())).rejects.toThrow();
    await rm(at('pack'));
    await expect(readPack(at('pack'), [], () => at('made'), meter())).rejects.toThrow('ENOENT');
    for (const name of ['made', 'made.unpacking']) await expect(stat(at(name))).rejects.toThrow('ENOENT');
  });
});

describe('a previous version that is kept', () => {
  const folder = () => at('versions');
  const put = (name: string) => keepPreviousVersion(folder(), [{ name: 'memory', path: at(name) }], at('pack'));
  const content = randomBytes(3 * 2 ** 20);
  /** As when its VM leaves: packed here, and then moved away. */
  async function left(): Promise<void> {
    await rm(folder(), { recursive: true, force: true });
    await writeFile(at('source'), content);
    await writePack(at('pack'), [{ name: 'memory', path: at('source') }], new Set(), meter());
    await put('source');
  }
  const damage = async (path: string): Promise<void> => {
    const handle = await open(path, 'r+');
    await handle.write(randomBytes(64 * 1024), 0, 64 * 1024, 2 ** 20);
    await handle.close();
  };

  it('is what its pack describes, and is not read again', async () => {
    await left();
    await damage(join(folder(), 'memory'));
    const [kept] = await readPreviousVersion(folder());
    await writeFile(at('source'), content);
    expect(kept).toEqual({ path: join(folder(), 'memory'), chunks: (await keptAt(at('source'))).chunks });
  });

  it('is complete after it was kept once more, and replaced by a newer one', async () => {
    await left();
    const before = await readPreviousVersion(folder());
    await put('source');
    expect(await readPreviousVersion(folder())).toEqual(before);
    await writeFile(at('source'), content.subarray(0, 2 ** 20));
    await writePack(at('pack'), [{ name: 'memory', path: at('source') }], new Set(), meter());
    await put('source');
    expect((await readPreviousVersion(folder())).map(({ chunks: recipe }) => recipe.sizeBytes)).toEqual([2 ** 20]);
  });

  it.each([
    ['nothing', () => rm(join(folder(), 'index'))],
    ['another length', () => writeFile(join(folder(), 'memory'), content.subarray(1))],
  ])('is read where %s is written of it, and that once', async (_, spoil) => {
    await left();
    await spoil();
    const read = await readPreviousVersion(folder());
    expect(read).toEqual([await keptAt(join(folder(), 'memory'))]);
    await damage(join(folder(), 'memory'));
    expect(await readPreviousVersion(folder())).toEqual(read);
  });

  it('of nothing is none', async () => {
    await rm(folder(), { recursive: true, force: true });
    await rm(at('pack'), { force: true });
    expect(await readPreviousVersion(folder())).toEqual([]);
    await put('no such file');
    expect(await readPreviousVersion(folder())).toEqual([]);
    await mkdir(folder());
    expect(await readPreviousVersion(folder())).toEqual([]);
  });

  it('that is damaged produces nothing, and leaves nothing', async () => {
    await left();
    await damage(join(folder(), 'memory'));
    await writeFile(at('source'), content);
    const have = await hashes(at('source'));
    await writePack(at('pack'), [{ name: 'memory', path: at('source') }], have, meter());
    await rm(at('made'), { force: true });
    await expect(readPack(at('pack'), await readPreviousVersion(folder()), () => at('made'), meter())).rejects.toThrow(
      PreviousVersionDamaged,
    );
    expect((await readdir(at('.'))).filter((name) => name.startsWith('made'))).toEqual([]);
  });
});
