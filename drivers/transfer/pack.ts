import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { pipeline as joined, Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { z } from 'zod';
import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import { BerthError } from '../../model/errors.ts';
import { chunkHash, maxChunkBytes, readChunks } from './content-chunks.ts';

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
export interface PassProgress {
  doneBytes: number;
  totalBytes: number;
}

const chunkEntryBytes = 20;
const zeros = Buffer.alloc(maxChunkBytes);
/** Read or written at once: a question to the system takes as long as the copying of some hundred KiB. */
const bufferBytes = 256 * 1024;

/** What a file is made of. */
export interface FileChunks {
  name: ColdCopyFile;
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
  files: { name: ColdCopyFile; path: string }[],
  cachedChunks: Set<string>,
  progress: PassProgress,
): Promise<number> {
  const recipes: FileChunks[] = [];
  const handles: FileHandle[] = [];
  // Each file is gone through twice: for its recipe, and for what the target hasn't got.
  const count = (bytes: number): void => {
    progress.doneBytes += bytes / 2;
  };
  try {
    for (const { path } of files) {
      const handle = await open(path, 'r');
      handles.push(handle);
      progress.totalBytes += (await handle.stat()).size;
    }
    for (const [index, { name }] of files.entries()) recipes.push(await chunkFile(name, handles[index]!, count));
    async function* content(): AsyncGenerator<Buffer> {
      yield encodeFileChunks(recipes);
      const sent = new Set(cachedChunks);
      for (const [index, { entries }] of recipes.entries()) {
        // What follows each other is read in one piece, from here to where the last new chunk ends.
        let from = 0;
        let offset = 0;
        for (const { hash, bytes } of readEntries(entries)) {
          const isNew = !sent.has(hash);
          if (offset > from && (!isNew || offset - from >= bufferBytes)) {
            yield await readExactly(handles[index]!, from, offset - from);
            from = offset;
          }
          sent.add(hash);
          offset += bytes;
          if (!isNew) from = offset;
          count(bytes);
        }
        if (offset > from) yield await readExactly(handles[index]!, from, offset - from);
      }
    }
    const compress = createZstdCompress({ params: { [constants.ZSTD_c_compressionLevel]: 1 } });
    await pipeline(Readable.from(content()), compress, createWriteStream(pack, { mode: 0o600 }));
  } finally {
    for (const handle of handles) await handle.close();
  }
  return recipes.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

/** Length of a header, the header, the chunks of one file after the other. */
export function encodeFileChunks(recipes: readonly FileChunks[]): Buffer {
  const header: Header = {
    files: recipes.map(({ entries, ...file }) => ({ ...file, chunks: entries.length / chunkEntryBytes })),
  };
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return Buffer.concat([length, text, ...recipes.map(({ entries }) => entries)]);
}

async function decodeFileChunks(reader: (count: number) => Promise<Buffer>): Promise<FileChunks[]> {
  const headerBytes = (await reader(4)).readUInt32LE();
  const { files } = headerSchema.parse(JSON.parse((await reader(headerBytes)).toString()));
  const recipes: FileChunks[] = [];
  for (const { chunks, ...file } of files) recipes.push({ ...file, entries: await reader(chunks * chunkEntryBytes) });
  return recipes;
}

/** What encodeRecipes has written to a file, alone or at the beginning of a pack. */
export async function readFileChunks(path: string, packed: boolean): Promise<FileChunks[]> {
  const stream = packed ? decompressed(path) : createReadStream(path);
  try {
    return await decodeFileChunks(byteReader(stream));
  } finally {
    stream.destroy();
  }
}

/** What ends or fails on the way is told to whoever reads: nobody else listens. */
const decompressed = (pack: string) => joined(createReadStream(pack), createZstdDecompress(), () => undefined);

/** Reads the whole file. */
export async function chunkFile(
  name: ColdCopyFile,
  handle: FileHandle,
  count: (bytes: number) => void = () => {},
): Promise<FileChunks> {
  const whole = createHash('sha256');
  const entries: Buffer[] = [];
  let sizeBytes = 0;
  for await (const { hash, length, bytes } of readChunks(handle)) {
    whole.update(bytes);
    sizeBytes += length;
    count(length);
    const entry = Buffer.alloc(chunkEntryBytes);
    entry.write(hash, 'hex');
    entry.writeUInt32LE(length, 16);
    entries.push(entry);
  }
  return { name, sizeBytes, sha256: whole.digest('hex'), entries: Buffer.concat(entries) };
}

export function* readEntries(entries: Buffer): Generator<{ hash: string; bytes: number }> {
  for (let at = 0; at < entries.length; at += chunkEntryBytes)
    yield { hash: entries.toString('hex', at, at + 16), bytes: entries.readUInt32LE(at + 16) };
}

async function readExactly(handle: FileHandle, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  const { bytesRead } = await handle.read(bytes, 0, length, offset);
  if (bytesRead !== length) throw new Error(`a file has ${bytesRead} bytes at ${offset}, where ${length} had been seen`);
  return bytes;
}

/** A file that is read here and there, mostly onwards: so more is read than is asked for, but not of one that is still written. */
class BufferedReader {
  readonly #handle: FileHandle;
  readonly #leastBytes: number;
  #held: Buffer = Buffer.alloc(0);
  #from = 0;

  constructor(handle: FileHandle, leastBytes = bufferBytes) {
    this.#handle = handle;
    this.#leastBytes = leastBytes;
  }

  /** As many bytes as there are, at most `length`. */
  async read(offset: number, length: number): Promise<Buffer> {
    if (offset < this.#from || offset + length > this.#from + this.#held.length) {
      const held = Buffer.allocUnsafe(Math.max(this.#leastBytes, length));
      const { bytesRead } = await this.#handle.read(held, 0, held.length, offset);
      this.#held = held.subarray(0, bytesRead);
      this.#from = offset;
    }
    const at = offset - this.#from;
    return this.#held.subarray(at, at + length);
  }
}

/** A file that is written from its beginning to its end, with holes. */
class SparseWriter {
  readonly #handle: FileHandle;
  #held: Buffer[] = [];
  #bytes = 0;
  #from = 0;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  async write(chunk: Buffer, offset: number): Promise<void> {
    if (offset !== this.#from + this.#bytes) await this.flush();
    if (this.#bytes === 0) this.#from = offset;
    this.#held.push(chunk);
    this.#bytes += chunk.length;
    if (this.#bytes >= bufferBytes) await this.flush();
  }

  async flush(): Promise<void> {
    if (this.#bytes === 0) return;
    const piece = Buffer.concat(this.#held);
    // A disk that is just full takes a part, and refuses the rest.
    for (let at = 0; at < piece.length; )
      at += (await this.#handle.write(piece, at, piece.length - at, this.#from + at)).bytesWritten;
    this.#held = [];
    this.#bytes = 0;
  }
}

interface ChunkLocation {
  file: BufferedReader;
  offset: number;
  length: number;
  /** Of the earlier version that it is in; null: it came with the pack. */
  previousPath: string | null;
}

/** A file of an earlier version, and what it is made of. */
export interface PreviousVersionFile {
  path: string;
  chunks: FileChunks;
}

/** A file that is kept is not what its recipe says: nothing can be made with it. */
export class PreviousVersionDamaged extends Error {}

/** Makes the files of a pack from what it brings and what is kept here, and compares their digests. Throws KeptDamaged. */
export async function readPack(
  pack: string,
  previousVersion: readonly PreviousVersionFile[],
  pathOf: (name: ColdCopyFile) => string,
  progress: PassProgress,
): Promise<void> {
  const handles: FileHandle[] = [];
  const partials: string[] = [];
  const opened = async (path: string, flags: string): Promise<FileHandle> => {
    const handle = await open(path, flags, 0o600);
    handles.push(handle);
    return handle;
  };
  const stream = decompressed(pack);
  try {
    const reader = byteReader(stream);
    const recipes = await decodeFileChunks(reader);
    for (const { sizeBytes } of recipes) progress.totalBytes += sizeBytes;
    const known = new Map<string, ChunkLocation>();
    for (const { path, chunks: recipe } of previousVersion) {
      const file = new BufferedReader(await opened(path, 'r'));
      let offset = 0;
      for (const { hash, bytes } of readEntries(recipe.entries)) {
        known.set(hash, { file, offset, length: bytes, previousPath: path });
        offset += bytes;
      }
    }
    for (const { name, sizeBytes, sha256, entries } of recipes) {
      const path = pathOf(name);
      const partial = `${path}.unpacking`;
      partials.push(partial);
      await rm(partial, { force: true });
      const handle = await opened(partial, 'w+');
      await handle.truncate(sizeBytes);
      const [file, writer] = [new BufferedReader(handle, 0), new SparseWriter(handle)];
      const digest = createHash('sha256');
      let offset = 0;
      for (const { hash, bytes } of readEntries(entries)) {
        const location = known.get(hash);
        if (location?.file === file) await writer.flush();
        const chunk = location === undefined ? await reader(bytes) : await readChunk(hash, location);
        if (location === undefined) known.set(hash, { file, offset, length: bytes, previousPath: null });
        digest.update(chunk);
        // What is only zeros stays a hole.
        if (!chunk.equals(zeros.subarray(0, bytes))) await writer.write(chunk, offset);
        offset += bytes;
        progress.doneBytes += bytes;
      }
      await writer.flush();
      if (digest.digest('hex') !== sha256)
        throw new BerthError('internal', `unpacking ${name}: its bytes are not those that were packed; it is fetched again`);
      await handle.sync();
      await rename(partial, path);
    }
  } finally {
    stream.destroy();
    for (const handle of handles) await handle.close();
    for (const partial of partials) await rm(partial, { force: true });
  }
}

async function readChunk(hash: string, { file, offset, length, previousPath: kept }: ChunkLocation): Promise<Buffer> {
  const chunk = await file.read(offset, length);
  if (kept !== null && (chunk.length !== length || chunkHash(chunk) !== hash))
    throw new PreviousVersionDamaged(`${kept} is not what it was when it was put aside: its bytes from ${offset} on are others`);
  return chunk;
}

/** Exactly as many bytes as are asked for, from a stream. */
function byteReader(stream: AsyncIterable<Buffer>): (count: number) => Promise<Buffer> {
  const source = stream[Symbol.asyncIterator]();
  let buffered: Buffer[] = [];
  let bytes = 0;
  return async (count) => {
    while (bytes < count) {
      const { value, done } = await source.next();
      if (done) throw new BerthError('internal', `unpacking: the pack ends ${count - bytes} bytes too early`);
      buffered.push(value);
      bytes += value.length;
    }
    const all = buffered.length === 1 ? buffered[0]! : Buffer.concat(buffered);
    buffered = [all.subarray(count)];
    bytes -= count;
    return all.subarray(0, count);
  };
}
