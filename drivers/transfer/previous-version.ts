import { mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { ColdCopyFile } from '../../contracts/host-migration.ts';
import { exists, replaceAtomically } from '../host/files.ts';
import { chunkFile, encodeFileChunks, type FileChunks, type PreviousVersionFile, readFileChunks } from './pack.ts';

/** Beside the files of an earlier version: what they are made of, as whoever packed them last has found. */
const indexName = 'index';

/**
 * Puts the files of a VM that went elsewhere into the folder of its earlier version, in place of what was kept of it before.
 * Where they were packed here, the pack says what they are made of, and they aren't read again. Once more changes nothing.
 */
export async function keepPreviousVersion(
  folder: string,
  files: { name: ColdCopyFile; path: string }[],
  pack: string,
): Promise<void> {
  const existing = [];
  for (const file of files) if (await exists(file.path)) existing.push(file);
  if (existing.length === 0) return;
  const recipes = (await exists(pack)) ? await readFileChunks(pack, true) : [];
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const { name, path } of existing) await rename(path, join(folder, name));
  await writeIndex(folder, recipes);
}

/** The files of an earlier version, if there is one, which is in use from now on; those whose recipe is missing are read. */
export async function readPreviousVersion(folder: string): Promise<PreviousVersionFile[]> {
  if (!(await exists(folder))) return [];
  const now = new Date();
  await utimes(folder, now, now);
  const index = join(folder, indexName);
  const indexed = (await exists(index)) ? await readFileChunks(index, false) : [];
  const files: PreviousVersionFile[] = [];
  for (const name of await readdir(folder)) {
    // What a write of it that was cut short has left as well.
    if (name.startsWith(indexName)) continue;
    const path = join(folder, name);
    const { size } = await stat(path);
    const known = indexed.find((recipe) => recipe.name === name && recipe.sizeBytes === size);
    files.push({ path, chunks: known ?? (await chunkPath(path, name as ColdCopyFile)) });
  }
  const recipes = files.map(({ chunks: recipe }) => recipe);
  if (recipes.some((recipe) => !indexed.includes(recipe))) await writeIndex(folder, recipes);
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

/** In one step: half an index would be worse than none. */
const writeIndex = (folder: string, recipes: readonly FileChunks[]): Promise<void> =>
  replaceAtomically(join(folder, indexName), encodeFileChunks(recipes));
