import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';

/**
 * A chunk of a file, whose bounds depend on the content alone (Muthitacharoen, Chen, Mazières: LBFS, 2001; with the gear
 * hash of Xia et al.: FastCDC, 2016), so that content is found again at another offset: a guest's saved memory is a stream
 * of pages, in which an added or removed page shifts all that follow.
 */
interface Chunk {
  /** SHA-256, the first 16 bytes, hexadecimal. */
  hash: string;
  offset: number;
  length: number;
}

const minChunkBytes = 4 * 1024;
/** The mean size of a chunk is 16 KiB: 2 to the number of bits in the mask. */
const maskBits = 14;
export const maxChunkBytes = 64 * 1024;
const readBytes = 4 * 2 ** 20;

const mask = ((1 << maskBits) - 1) << (32 - maskBits);
/** Arbitrary numbers, the same on every host. */
const gear = Uint32Array.from({ length: 256 }, (_, byte) =>
  createHash('sha256').update(`berth ${byte}`).digest().readUInt32LE(0),
);

/** Length of the first chunk of `bytes`. */
function firstChunkLength(bytes: Uint8Array): number {
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

/** A file's chunks in order, with their content, which is valid until the next chunk is requested. */
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
    // The last chunk in the buffer may continue beyond it.
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
