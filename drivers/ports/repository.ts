import type { Readable } from 'node:stream';

/** The repository as a host writes to it: by signed URLs alone. */
export interface Repository {
  /** Stores one output; repeating replaces. The stream is read once, to `sizeBytes`. */
  storeOutput(
    url: string,
    path: string,
    sizeBytes: number,
    content: Readable,
    signal: AbortSignal,
  ): Promise<{ file: string; sizeBytes: number; sha256: string }>;
  /** Appends to a live log at an offset, and returns how many bytes the log has: fewer than `from` when there'd be a gap. */
  appendLog(url: string, from: number, bytes: Buffer, signal: AbortSignal): Promise<number>;
}
