import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, opendir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BerthError } from '../../model/errors.ts';

/**
 * The repository's bytes on disk. Bytes arrive under partial/, are made durable there, and are renamed to
 * files/<2>/<fileId>-<sha256>: a name has the content's digest, so replacing a file's content changes its row only.
 */
export interface ByteStore {
  /** Writes a stream to a partial file. `admit` is called with the total so far before each write, and may throw. */
  receive(
    fileId: string,
    source: AsyncIterable<Uint8Array>,
    admit: (totalBytes: number) => Promise<void> | void,
  ): Promise<Received>;
  /** Makes received bytes the content of a file; durable when it returns. */
  commit(received: Received, fileId: string): Promise<void>;
  /** Removes a partial file; success also when it does not exist. */
  discard(received: Pick<Received, 'partial'>): Promise<void>;
  path(fileId: string, sha256: string): string;
  /** The first bytes; fewer where the file ends, null where it does not exist. */
  head(fileId: string, sha256: string, length: number): Promise<Buffer | null>;
  /** Success also when the bytes do not exist. An open download keeps its bytes until it ends. */
  remove(fileId: string, sha256: string): Promise<void>;
  /** Every committed file and every partial one, with the time of the last write (ms since 1970). */
  files(): AsyncIterable<{ fileId: string; sha256: string; path: string; writtenAtMs: number }>;
  partials(): AsyncIterable<{ fileId: string; path: string; writtenAtMs: number }>;
}

export interface Received {
  partial: string;
  sizeBytes: number;
  sha256: string;
}

export function isNoSuchFile(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

/** Maps a full disk, or a full disk quota, to `disk-full`; returns every other error unchanged. */
export function asDiskError(error: unknown): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  if (code !== 'ENOSPC' && code !== 'EDQUOT') return error;
  return new BerthError('disk-full', 'The disk of the repository is full; nothing of this request was kept', { cause: error });
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

async function writeAll(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  let from = 0;
  while (from < chunk.length) from += (await handle.write(chunk, from)).bytesWritten;
}

async function* entries(folder: string): AsyncIterable<{ name: string; path: string; writtenAtMs: number }> {
  for await (const entry of await opendir(folder)) {
    const path = join(folder, entry.name);
    try {
      yield { name: entry.name, path, writtenAtMs: (await stat(path)).mtimeMs };
    } catch (error) {
      if (!isNoSuchFile(error)) throw error;
    }
  }
}

export async function openByteStore(root: string): Promise<ByteStore> {
  const files = join(root, 'files');
  const partial = join(root, 'partial');
  await mkdir(files, { recursive: true, mode: 0o700 });
  await mkdir(partial, { recursive: true, mode: 0o700 });
  // TypeIDs begin with the time: their last characters are random, and distribute files evenly over the folders.
  const folderOf = (fileId: string) => join(files, fileId.slice(-2));
  const pathOf = (fileId: string, sha256: string) => join(folderOf(fileId), `${fileId}-${sha256}`);

  return {
    path: pathOf,

    async receive(fileId, source, admit) {
      const path = join(partial, `${fileId}.${randomBytes(6).toString('hex')}`);
      try {
        const handle = await open(path, 'wx', 0o600);
        try {
          const hash = createHash('sha256');
          let sizeBytes = 0;
          for await (const chunk of source) {
            sizeBytes += chunk.length;
            await admit(sizeBytes);
            hash.update(chunk);
            await writeAll(handle, chunk);
          }
          await handle.sync();
          return { partial: path, sizeBytes, sha256: hash.digest('hex') };
        } finally {
          await handle.close();
        }
      } catch (error) {
        await rm(path, { force: true });
        throw asDiskError(error);
      }
    },

    async commit(received, fileId) {
      try {
        const folder = folderOf(fileId);
        if ((await mkdir(folder, { recursive: true, mode: 0o700 })) !== undefined) await syncFolder(files);
        await rename(received.partial, pathOf(fileId, received.sha256));
        await syncFolder(folder);
      } catch (error) {
        throw asDiskError(error);
      }
    },

    async head(fileId, sha256, length) {
      try {
        const handle = await open(pathOf(fileId, sha256), 'r');
        try {
          const { buffer, bytesRead } = await handle.read(Buffer.alloc(length), 0, length, 0);
          return buffer.subarray(0, bytesRead);
        } finally {
          await handle.close();
        }
      } catch (error) {
        if (isNoSuchFile(error)) return null;
        throw error;
      }
    },

    discard: (received) => rm(received.partial, { force: true }),
    remove: (fileId, sha256) => rm(pathOf(fileId, sha256), { force: true }),

    async *files() {
      for await (const folder of entries(files)) {
        for await (const { name, path, writtenAtMs } of entries(folder.path)) {
          const [fileId = '', sha256 = ''] = name.split('-');
          yield { fileId, sha256, path, writtenAtMs };
        }
      }
    },

    async *partials() {
      for await (const { name, path, writtenAtMs } of entries(partial))
        yield { fileId: name.split('.')[0] ?? '', path, writtenAtMs };
    },
  };
}
