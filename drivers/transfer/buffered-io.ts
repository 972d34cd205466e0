import type { FileHandle } from 'node:fs/promises';
import { BerthError } from '../../model/errors.ts';

/** Bytes of one read or write: a system call costs as much as copying some hundred KiB. */
export const bufferBytes = 256 * 1024;

export async function readExactly(handle: FileHandle, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  const { bytesRead } = await handle.read(bytes, 0, length, offset);
  if (bytesRead !== length) throw new Error(`a file has ${bytesRead} bytes at ${offset}, where ${length} were read before`);
  return bytes;
}

/**
 * Reads parts of a file, mostly in ascending order, and therefore reads ahead. A file that is still written needs
 * `minReadBytes` of 0: it must not be read ahead.
 */
export class BufferedReader {
  readonly #handle: FileHandle;
  readonly #minReadBytes: number;
  #buffer: Buffer = Buffer.alloc(0);
  #offset = 0;

  constructor(handle: FileHandle, minReadBytes = bufferBytes) {
    this.#handle = handle;
    this.#minReadBytes = minReadBytes;
  }

  /** At most `length` bytes; fewer at the end of the file. */
  async read(offset: number, length: number): Promise<Buffer> {
    if (offset < this.#offset || offset + length > this.#offset + this.#buffer.length) {
      const buffer = Buffer.allocUnsafe(Math.max(this.#minReadBytes, length));
      const { bytesRead } = await this.#handle.read(buffer, 0, buffer.length, offset);
      this.#buffer = buffer.subarray(0, bytesRead);
      this.#offset = offset;
    }
    const at = offset - this.#offset;
    return this.#buffer.subarray(at, at + length);
  }
}

/** Writes a file in ascending order, with holes. */
export class SparseWriter {
  readonly #handle: FileHandle;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #offset = 0;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  async write(chunk: Buffer, offset: number): Promise<void> {
    if (offset !== this.#offset + this.#bytes) await this.flush();
    if (this.#bytes === 0) this.#offset = offset;
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    if (this.#bytes >= bufferBytes) await this.flush();
  }

  async flush(): Promise<void> {
    if (this.#bytes === 0) return;
    const piece = Buffer.concat(this.#chunks);
    // A disk that becomes full writes a part, and refuses the rest.
    for (let at = 0; at < piece.length; )
      at += (await this.#handle.write(piece, at, piece.length - at, this.#offset + at)).bytesWritten;
    this.#chunks = [];
    this.#bytes = 0;
  }
}

/** Reads exactly `count` bytes of a stream at each call. */
export function byteReader(stream: AsyncIterable<Buffer>): (count: number) => Promise<Buffer> {
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
