import { randomBytes } from 'node:crypto';
import type { Stats } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { BerthError } from '../../model/errors.ts';

/** Whether a file system call failed with this code. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && codes.includes(error.code);
}

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Maps the host's own ENOSPC to `disk-full`; returns every other error as it is. */
export function diskFullOr(error: unknown, act: string): unknown {
  return isErrno(error, 'ENOSPC', 'EDQUOT')
    ? new BerthError('disk-full', `${act}: the disk of this host is full; free some or give the cache less`, { cause: error })
    : error;
}

/** null where there is no such file. */
export async function statOrNull(path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return null;
    throw error;
  }
}

export async function exists(path: string): Promise<boolean> {
  return (await statOrNull(path)) !== null;
}

/** What files take of the disk, by blocks: disks and memories are sparse. A file that is removed meanwhile takes nothing. */
export async function allocatedBytes(...paths: string[]): Promise<number> {
  let bytes = 0;
  for (const path of paths) bytes += ((await statOrNull(path))?.blocks ?? 0) * 512;
  return bytes;
}

/** The names in a folder; none where there is no such folder. */
export async function listNames(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return [];
    throw error;
  }
}

/** Ids come from the ledger or from a folder's names; either way they become a part of a path only as a single word. */
export function requireFolderName(id: string): string {
  if (!/^[A-Za-z0-9_-]{1,96}$/.test(id)) throw new Error(`BUG: ${JSON.stringify(id)} can't name a folder`);
  return id;
}

/** Moves a folder out of use in one step, then removes it: a kill in between leaves it in staging/, which is swept. */
export async function discard(path: string, staging: string): Promise<void> {
  await makeFolder(staging);
  const trash = join(staging, `${basename(path)}.${randomBytes(8).toString('hex')}.discarded`);
  try {
    await rename(path, trash);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return;
    throw error;
  }
  await rm(trash, { recursive: true, force: true });
}

/** Leaves the old or the new content, never a part: temporary file, fsync, rename, fsync of the folder. */
export async function replaceDurably(path: string, content: string): Promise<void> {
  await replaceAtomically(path, content);
  await syncFolder(dirname(path));
}

/** Leaves the old or the new content, never a part; a power cut may bring back the old. Costs half of replaceDurably. */
export async function replaceAtomically(path: string, content: string | Buffer): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.partial`;
  const file = await open(temporary, 'wx', 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

/** Flushes to the disk what another process has written to a file. */
export async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

export async function makeFolder(path: string, mode = 0o700): Promise<void> {
  await mkdir(path, { recursive: true, mode });
}

/** The text of a file, or null when it isn't there. */
export async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return null;
    throw error;
  }
}

/** The first bytes of a file: fewer where it is shorter, none where there is no file. */
export async function readHead(path: string, bytes: number): Promise<Buffer> {
  return readSpan(path, () => ({ from: 0, length: bytes }));
}

/** The last bytes of a file, as long as it was when this began: fewer where it is shorter, none where there is no file. */
export async function readTail(path: string, bytes: number): Promise<Buffer> {
  return readSpan(path, (size) => ({ from: Math.max(0, size - bytes), length: Math.min(size, bytes) }));
}

async function readSpan(path: string, spanOf: (size: number) => { from: number; length: number }): Promise<Buffer> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return Buffer.alloc(0);
    throw error;
  }
  try {
    const { from, length } = spanOf((await file.stat()).size);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, from);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Large enough that the cost of a call doesn't matter, small enough that two fit into memory. */
const writeBufferBytes = 2 ** 20;

/**
 * Writes a stream to a file in large pieces, each while the next one is received. `onChunk` is called with every chunk
 * before it is written, and may throw.
 */
export async function writeStream(
  file: FileHandle,
  body: AsyncIterable<Buffer>,
  onChunk: (chunk: Buffer) => void,
): Promise<void> {
  let buffered: Buffer[] = [];
  let bytes = 0;
  let writing: Promise<unknown> = Promise.resolve();
  const flush = async (): Promise<void> => {
    await writing;
    if (bytes > 0) writing = file.writev(buffered);
    // The next flush throws its error; until then nothing awaits it.
    writing.catch(() => undefined);
    buffered = [];
    bytes = 0;
  };
  try {
    for await (const chunk of body) {
      onChunk(chunk);
      buffered.push(chunk);
      bytes += chunk.length;
      if (bytes >= writeBufferBytes) await flush();
    }
    await flush();
  } finally {
    // The caller must not close the file during a write.
    await writing;
  }
}
