import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { constants, createZstdCompress } from 'node:zlib';
import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import { BerthError } from '../../model/errors.ts';
import { BufferedReader, bufferBytes, byteReader, readExactly, SparseWriter } from './buffered-io.ts';
import { chunkHash, maxChunkBytes } from './content-chunks.ts';
import { chunkFile, decodeFileChunks, decompressed, encodeFileChunks, type FileChunks, readEntries } from './file-chunks.ts';

/** How far a pass is; updated while it runs. */
export interface PassProgress {
  doneBytes: number;
  totalBytes: number;
}

const zeros = Buffer.alloc(maxChunkBytes);

/**
 * Writes a pack, compressed: the chunk lists of the files (encodeFileChunks), then each chunk that the target doesn't have,
 * once, in the order of its first use. @returns the size of all files
 */
export async function writePack(
  pack: string,
  files: { name: ColdCopyFile; path: string }[],
  cachedChunks: Set<string>,
  progress: PassProgress,
): Promise<number> {
  const chunked: FileChunks[] = [];
  const handles: FileHandle[] = [];
  // Each file is read twice: for its list of chunks, and for the chunks that the target doesn't have.
  const count = (bytes: number): void => {
    progress.doneBytes += bytes / 2;
  };
  try {
    for (const { path } of files) {
      const handle = await open(path, 'r');
      handles.push(handle);
      progress.totalBytes += (await handle.stat()).size;
    }
    for (const [index, { name }] of files.entries()) chunked.push(await chunkFile(name, handles[index]!, count));
    async function* content(): AsyncGenerator<Buffer> {
      yield encodeFileChunks(chunked);
      const sent = new Set(cachedChunks);
      for (const [index, { entries }] of chunked.entries()) {
        // Consecutive new chunks are read at once, from `from` to `offset`.
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
  return chunked.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
}

interface ChunkLocation {
  file: BufferedReader;
  offset: number;
  length: number;
  /** The file of the previous version that it is in; null: it came with the pack. */
  previousPath: string | null;
}

/** A file of a previous version, and the chunks that it consists of. */
export interface PreviousVersionFile {
  path: string;
  chunks: FileChunks;
}

/** A file of the previous version doesn't have the chunks that its index says: nothing can be made from it. */
export class PreviousVersionDamaged extends Error {}

/**
 * Makes the files of a pack from its chunks and those of the previous version, and verifies their digests. Throws
 * PreviousVersionDamaged.
 */
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
    const files = await decodeFileChunks(reader);
    for (const { sizeBytes } of files) progress.totalBytes += sizeBytes;
    const known = new Map<string, ChunkLocation>();
    for (const { path, chunks } of previousVersion) {
      const file = new BufferedReader(await opened(path, 'r'));
      let offset = 0;
      for (const { hash, bytes } of readEntries(chunks.entries)) {
        known.set(hash, { file, offset, length: bytes, previousPath: path });
        offset += bytes;
      }
    }
    for (const { name, sizeBytes, sha256, entries } of files) {
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
        // A chunk of zeros remains a hole.
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

async function readChunk(hash: string, { file, offset, length, previousPath }: ChunkLocation): Promise<Buffer> {
  const chunk = await file.read(offset, length);
  if (previousPath !== null && (chunk.length !== length || chunkHash(chunk) !== hash))
    throw new PreviousVersionDamaged(`${previousPath} has changed since it was kept: its bytes from ${offset} on are different`);
  return chunk;
}
