import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { z } from 'zod';
import { BerthError } from '../model/errors.ts';
import { chunksOf, mostBytes } from './chunks.ts';
import type { CarriedFile } from './ports.ts';

const headerSchema = z.strictObject({
  files: z.array(
    z.strictObject({
      name: z.union([z.enum(['memory', 'overlay', 'data']), z.templateLiteral(['extra-', z.int().min(0)])]),
      sizeBytes: z.int().min(0),
      sha256: z.string(),
      chunks: z.int().min(0),
    }),
  ),
});
type Header = z.output<typeof headerSchema>;

/** How far it is, for whoever asks meanwhile. */
export interface Meter {
  doneBytes: number;
  totalBytes: number;
}

const entryBytes = 20;
const zeros = Buffer.alloc(mostBytes);

interface Recipe {
  name: CarriedFile;
  path: string;
  sizeBytes: number;
  sha256: string;
  /** Hash and length of each chunk. */
  entries: Buffer;
}

/**
 * Length of the header, the header, the files' recipes, then every chunk that the target hasn't got, once, where it is
 * first needed; all of it compressed. @returns what the files have together.
 */
export async function writePack(
  pack: string,
  files: { name: CarriedFile; path: string }[],
  have: Set<string>,
  meter: Meter,
): Promise<number> {
  const recipes: Recipe[] = [];
  const handles: FileHandle[] = [];
  // Each file is gone through twice: for its recipe, and for what the target hasn't got.
  const count = (bytes: number): void => {
    meter.doneBytes += bytes / 2;
  };
  try {
    for (const { path } of files) {
      const handle = await open(path, 'r');
      handles.push(handle);
      meter.totalBytes += (await handle.stat()).size;
    }
    for (const [index, { name, path }] of files.entries())
      recipes.push({ name, path, ...(await recipeOf(handles[index]!, count)) });
    const header: Header = {
      files: recipes.map(({ name, sizeBytes, sha256, entries }) => ({
        name,
        sizeBytes,
        sha256,
        chunks: entries.length / entryBytes,
      })),
    };
    async function* content(): AsyncGenerator<Buffer> {
      const text = Buffer.from(JSON.stringify(header));
      const length = Buffer.alloc(4);
      length.writeUInt32LE(text.length);
      yield Buffer.concat([length, text]);
      for (const { entries } of recipes) yield entries;
      const sent = new Set<string>();
      for (const [index, { entries }] of recipes.entries()) {
        let offset = 0;
        for (const { hash, bytes } of readEntries(entries)) {
          if (!have.has(hash) && !sent.has(hash)) {
            sent.add(hash);
            const chunk = Buffer.allocUnsafe(bytes);
            await handles[index]!.read(chunk, 0, bytes, offset);
            yield chunk;
          }
          offset += bytes;
          count(bytes);
        }
      }
    }
    const compress = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: 1 } });
    await pipeline(Readable.from(content()), compress, createWriteStream(pack, { mode: 0o600 }));
  } finally {
    for (const handle of handles) await handle.close();
  }
  return recipes.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

async function recipeOf(
  handle: FileHandle,
  count: (bytes: number) => void,
): Promise<Pick<Recipe, 'sizeBytes' | 'sha256' | 'entries'>> {
  const whole = createHash('sha256');
  const entries: Buffer[] = [];
  let sizeBytes = 0;
  for await (const { hash, length, bytes } of chunksOf(handle)) {
    whole.update(bytes);
    sizeBytes += length;
    count(length);
    const entry = Buffer.alloc(entryBytes);
    entry.write(hash, 'hex');
    entry.writeUInt32LE(length, 16);
    entries.push(entry);
  }
  return { sizeBytes, sha256: whole.digest('hex'), entries: Buffer.concat(entries) };
}

function* readEntries(entries: Buffer): Generator<{ hash: string; bytes: number }> {
  for (let at = 0; at < entries.length; at += entryBytes)
    yield { hash: entries.toString('hex', at, at + 16), bytes: entries.readUInt32LE(at + 16) };
}

interface Found {
  handle: FileHandle;
  offset: number;
  length: number;
}

/** Makes the files of a pack from what it brings and what is kept here, and compares their digests. */
export async function readPack(
  pack: string,
  kept: readonly string[],
  placeOf: (name: CarriedFile) => string,
  meter: Meter,
): Promise<void> {
  const handles: FileHandle[] = [];
  const partials: string[] = [];
  const opened = async (path: string, flags: string): Promise<FileHandle> => {
    const handle = await open(path, flags, 0o600);
    handles.push(handle);
    return handle;
  };
  try {
    const reader = byteReader(createReadStream(pack).pipe(createZstdDecompress()));
    const headerBytes = (await reader(4)).readUInt32LE();
    const { files } = headerSchema.parse(JSON.parse((await reader(headerBytes)).toString()));
    for (const { sizeBytes } of files) meter.totalBytes += sizeBytes;
    const known = new Map<string, Found>();
    for (const file of kept) {
      const handle = await opened(file, 'r');
      meter.totalBytes += (await handle.stat()).size;
      for await (const { hash, offset, length } of chunksOf(handle)) {
        known.set(hash, { handle, offset, length });
        meter.doneBytes += length;
      }
    }
    const recipes = new Map<string, Buffer>();
    for (const { name, chunks } of files) recipes.set(name, await reader(chunks * entryBytes));
    for (const { name, sizeBytes, sha256 } of files) {
      const path = placeOf(name);
      const partial = `${path}.unpacking`;
      partials.push(partial);
      await rm(partial, { force: true });
      const handle = await opened(partial, 'w+');
      await handle.truncate(sizeBytes);
      const digest = createHash('sha256');
      let offset = 0;
      for (const { hash, bytes } of readEntries(recipes.get(name)!)) {
        const chunk = await chunkOf(known.get(hash), () => reader(bytes));
        if (!known.has(hash)) known.set(hash, { handle, offset, length: bytes });
        digest.update(chunk);
        // What is only zeros stays a hole.
        if (!chunk.equals(zeros.subarray(0, bytes))) await handle.write(chunk, 0, bytes, offset);
        offset += bytes;
        meter.doneBytes += bytes;
      }
      if (digest.digest('hex') !== sha256)
        throw new BerthError('internal', `unpacking ${name}: its bytes are not those that were packed; it is fetched again`);
      await handle.sync();
      await rename(partial, path);
    }
  } finally {
    for (const handle of handles) await handle.close();
    for (const partial of partials) await rm(partial, { force: true });
  }
}

async function chunkOf(found: Found | undefined, next: () => Promise<Buffer>): Promise<Buffer> {
  if (found === undefined) return next();
  const chunk = Buffer.allocUnsafe(found.length);
  await found.handle.read(chunk, 0, found.length, found.offset);
  return chunk;
}

/** Exactly as many bytes as are asked for, from a stream. */
function byteReader(stream: AsyncIterable<Buffer>): (count: number) => Promise<Buffer> {
  const source = stream[Symbol.asyncIterator]();
  let held: Buffer[] = [];
  let bytes = 0;
  return async (count) => {
    while (bytes < count) {
      const { value, done } = await source.next();
      if (done) throw new BerthError('internal', `unpacking: the pack ends ${count - bytes} bytes too early`);
      held.push(value);
      bytes += value.length;
    }
    const all = Buffer.concat(held);
    held = [all.subarray(count)];
    bytes -= count;
    return all.subarray(0, count);
  };
}
