import { mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import { exists, replaceAtomically } from '../host/files.ts';
import { chunkFile, encodeFileChunks, type FileChunks, readFileChunks } from './file-chunks.ts';
import type { PreviousVersionFile } from './pack.ts';

/** Beside the files of a previous version: the lists of their chunks, from the last pack or from reading them. */
const indexName = 'index';

/**
 * Moves the files of a VM that was migrated to another host into the folder of its previous version, in place of an older
 * one. Where they were packed here, the pack has the lists of their chunks, and they aren't read again. Repeatable.
 */
export async function keepPreviousVersion(
  folder: string,
  files: { name: ColdCopyFile; path: string }[],
  pack: string,
): Promise<void> {
  const existing = [];
  for (const file of files) if (await exists(file.path)) existing.push(file);
  if (existing.length === 0) return;
  const packed = (await exists(pack)) ? await readFileChunks(pack, true) : [];
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const { name, path } of existing) await rename(path, join(folder, name));
  await writeIndex(folder, packed);
}

/** The files of a previous version; marks it as used. Files that the index doesn't have are read, and added to it. */
export async function readPreviousVersion(folder: string): Promise<PreviousVersionFile[]> {
  if (!(await exists(folder))) return [];
  const now = new Date();
  await utimes(folder, now, now);
  const index = join(folder, indexName);
  const indexed = (await exists(index)) ? await readFileChunks(index, false) : [];
  const files: PreviousVersionFile[] = [];
  for (const name of await readdir(folder)) {
    // Also skips what an interrupted write of the index has left.
    if (name.startsWith(indexName)) continue;
    const path = join(folder, name);
    const { size } = await stat(path);
    const known = indexed.find((file) => file.name === name && file.sizeBytes === size);
    files.push({ path, chunks: known ?? (await chunkPath(path, name as ColdCopyFile)) });
  }
  const chunks = files.map((file) => file.chunks);
  if (chunks.some((list) => !indexed.includes(list))) await writeIndex(folder, chunks);
  return files;
}

async function chunkPath(path: string, name: ColdCopyFile): Promise<FileChunks> {
  const handle = await open(path, 'r');
  try {
    return await chunkFile(name, handle);
  } finally {
    await handle.close();
  }
}

/** Atomically: a part of an index would be worse than none. */
const writeIndex = (folder: string, files: readonly FileChunks[]): Promise<void> =>
  replaceAtomically(join(folder, indexName), encodeFileChunks(files));
