import type { Readable } from 'node:stream';

/** How a host writes to the repository: by signed URLs alone. */
export interface Repository {
  /**
   * Stores one output; a repeat replaces it. The stream is read once, and has `sizeBytes`.
   * @param attempt of stageOut: the task's end lists what its last attempt has stored
   */
  storeOutput(
    url: string,
    path: string,
    sizeBytes: number,
    content: Readable,
    signal: AbortSignal,
    attempt?: string,
  ): Promise<{ file: string; sizeBytes: number; sha256: string }>;
  /** Appends to a live log at an offset, and returns the log's length: less than `from` where the append would leave a gap. */
  appendLog(url: string, from: number, bytes: Buffer, signal: AbortSignal): Promise<number>;
}
