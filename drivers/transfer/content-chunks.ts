import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';

/**
 * Files cut into chunks where their content says so (Muthitacharoen, Chen, Mazières: LBFS, 2001; with the gear hash of
 * Xia et al.: FastCDC, 2016), so that what moved within a file is recognised again: a guest's saved memory is a stream
 * of pages in which one more or less shifts all that follow.
 */
export interface Chunk {
  /** SHA-256, the first 16 bytes, hexadecimal. */
  hash: string;
  offset: number;
  length: number;
}

const minChunkBytes = 4 * 1024;
/** Chunks are 16 KiB in the mean: the mask has this many bits. */
const maskBits = 14;
export const maxChunkBytes = 64 * 1024;
const readBytes = 4 * 2 ** 20;

const mask = ((1 << maskBits) - 1) << (32 - maskBits);
/** Any fixed numbers do, as long as every host has the same. */
const gear = Uint32Array.from({ length: 256 }, (_, byte) =>
  createHash('sha256').update(`berth ${byte}`).digest().readUInt32LE(0),
);

/** Length of the first chunk of `bytes`. */
export function firstChunkLength(bytes: Uint8Array): number {
  const end = Math.min(bytes.length, maxChunkBytes);
  if (end <= minChunkBytes) return end;
  let hash = 0;
  for (let at = minChunkBytes; at < end; at += 1) {
    hash = ((hash << 1) + gear[bytes[at]!]!) | 0;
    if ((hash & mask) === 0) return at + 1;
  }
  return end;
}

export const chunkHash = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex').slice(0, 32);

/** A file's chunks in their order, with their content, which is only valid until the next one is asked for. */
export async function* readChunks(file: FileHandle): AsyncGenerator<Chunk & { bytes: Buffer }> {
  const buffer = Buffer.allocUnsafe(readBytes + maxChunkBytes);
  let [buffered, base, ended] = [0, 0, false];
  for (;;) {
    while (!ended && buffered < buffer.length) {
      const { bytesRead } = await file.read(buffer, buffered, buffer.length - buffered, base + buffered);
      if (bytesRead === 0) ended = true;
      buffered += bytesRead;
    }
    if (buffered === 0) return;
    let position = 0;
    // The last chunk of what is held may go on in what isn't.
    while (position < buffered && (ended || buffered - position >= maxChunkBytes)) {
      const bytes = buffer.subarray(
        position,
        position + firstChunkLength(buffer.subarray(position, Math.min(buffered, position + maxChunkBytes))),
      );
      yield { hash: chunkHash(bytes), offset: base + position, length: bytes.length, bytes };
      position += bytes.length;
    }
    buffer.copyWithin(0, position, buffered);
    base += position;
    buffered -= position;
  }
}
