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

const leastBytes = 4 * 1024;
/** Chunks are 16 KiB in the mean: the mask has this many bits. */
const maskBits = 14;
export const mostBytes = 64 * 1024;
const readBytes = 4 * 2 ** 20;

const mask = ((1 << maskBits) - 1) << (32 - maskBits);
/** Any fixed numbers do, as long as every host has the same. */
const gear = Uint32Array.from({ length: 256 }, (_, byte) =>
  createHash('sha256').update(`berth ${byte}`).digest().readUInt32LE(0),
);

/** Length of the first chunk of `bytes`. */
export function cut(bytes: Uint8Array): number {
  const end = Math.min(bytes.length, mostBytes);
  if (end <= leastBytes) return end;
  let hash = 0;
  for (let at = leastBytes; at < end; at += 1) {
    hash = ((hash << 1) + gear[bytes[at]!]!) | 0;
    if ((hash & mask) === 0) return at + 1;
  }
  return end;
}

export const hashOf = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex').slice(0, 32);

/** A file's chunks in their order, with their content, which is only valid until the next one is asked for. */
export async function* chunksOf(file: FileHandle): AsyncGenerator<Chunk & { bytes: Buffer }> {
  const buffer = Buffer.allocUnsafe(readBytes + mostBytes);
  let [held, base, ended] = [0, 0, false];
  for (;;) {
    while (!ended && held < buffer.length) {
      const { bytesRead } = await file.read(buffer, held, buffer.length - held, base + held);
      if (bytesRead === 0) ended = true;
      held += bytesRead;
    }
    if (held === 0) return;
    let at = 0;
    // The last chunk of what is held may go on in what isn't.
    while (at < held && (ended || held - at >= mostBytes)) {
      const bytes = buffer.subarray(at, at + cut(buffer.subarray(at, Math.min(held, at + mostBytes))));
      yield { hash: hashOf(bytes), offset: base + at, length: bytes.length, bytes };
      at += bytes.length;
    }
    buffer.copyWithin(0, at, held);
    base += at;
    held -= at;
  }
}
