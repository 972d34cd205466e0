import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readFile, rename, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BerthError } from '../../model/errors.ts';

/** Whether a file system call failed with this code. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && codes.includes(error.code);
}

/** The host's own ENOSPC as Berth's error; everything else as it is. */
export function diskFullOr(error: unknown, act: string): unknown {
  return isErrno(error, 'ENOSPC', 'EDQUOT')
    ? new BerthError('disk-full', `${act}: the disk of this host is full; free some or give the cache less`, { cause: error })
    : error;
}

export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'ENOTDIR')) return false;
    throw error;
  }
}

/** Old or new, never half: temporary file, fsync, rename, fsync of the folder. */
export async function replaceDurably(path: string, content: string): Promise<void> {
  await replaceAtomically(path, content);
  await syncFolder(dirname(path));
}

/** Old or new, never half, but a power cut may bring back the old: half the price. */
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

/** Brings to the disk what another process has written to a file. */
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

/** Large enough that a write's own cost is nothing, small enough to be held twice. */
const writeBufferBytes = 2 ** 20;

/**
 * Writes a stream to a file in large pieces, each while the next one is on its way. `look` sees every chunk before it is
 * written, and may throw.
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
    // Its failure is met at the next flush; until then nobody listens.
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
    // The file must not be closed under a write.
    await writing;
  }
}
