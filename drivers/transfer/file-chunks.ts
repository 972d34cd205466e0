import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { pipeline } from 'node:stream';
import { createZstdDecompress } from 'node:zlib';
import { z } from 'zod';
import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import { byteReader } from './buffered-io.ts';
import { readChunks } from './content-chunks.ts';

/** The chunks that a file consists of, in order. */
export interface FileChunks {
  name: ColdCopyFile;
  sizeBytes: number;
  sha256: string;
  /** Hash and length of each chunk. */
  entries: Buffer;
}

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

const chunkEntryBytes = 20;

/** Length of a header, the header, the chunks of one file after the other. */
export function encodeFileChunks(files: readonly FileChunks[]): Buffer {
  const header: z.output<typeof headerSchema> = {
    files: files.map(({ entries, ...file }) => ({ ...file, chunks: entries.length / chunkEntryBytes })),
  };
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return Buffer.concat([length, text, ...files.map(({ entries }) => entries)]);
}

export async function decodeFileChunks(reader: (count: number) => Promise<Buffer>): Promise<FileChunks[]> {
  const headerBytes = (await reader(4)).readUInt32LE();
  const { files } = headerSchema.parse(JSON.parse((await reader(headerBytes)).toString()));
  const decoded: FileChunks[] = [];
  for (const { chunks, ...file } of files) decoded.push({ ...file, entries: await reader(chunks * chunkEntryBytes) });
  return decoded;
}

/** Reads what encodeFileChunks has written to a file, alone or at the beginning of a pack. */
export async function readFileChunks(path: string, packed: boolean): Promise<FileChunks[]> {
  const stream = packed ? decompressed(path) : createReadStream(path);
  try {
    return await decodeFileChunks(byteReader(stream));
  } finally {
    stream.destroy();
  }
}

/** The content of a pack. The reader of the stream gets its errors, so that the pipeline's callback has nothing to do. */
export const decompressed = (pack: string) => pipeline(createReadStream(pack), createZstdDecompress(), () => undefined);

/** Reads the whole file. */
export async function chunkFile(
  name: ColdCopyFile,
  handle: FileHandle,
  count: (bytes: number) => void = () => {},
): Promise<FileChunks> {
  const digest = createHash('sha256');
  const entries: Buffer[] = [];
  let sizeBytes = 0;
  for await (const { hash, length, bytes } of readChunks(handle)) {
    digest.update(bytes);
    sizeBytes += length;
    count(length);
    const entry = Buffer.alloc(chunkEntryBytes);
    entry.write(hash, 'hex');
    entry.writeUInt32LE(length, 16);
    entries.push(entry);
  }
  return { name, sizeBytes, sha256: digest.digest('hex'), entries: Buffer.concat(entries) };
}

export function* readEntries(entries: Buffer): Generator<{ hash: string; bytes: number }> {
  for (let at = 0; at < entries.length; at += chunkEntryBytes)
    yield { hash: entries.toString('hex', at, at + 16), bytes: entries.readUInt32LE(at + 16) };
}
