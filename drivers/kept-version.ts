import { mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { exists, replaceWhole } from './files.ts';
import { encodeRecipes, type Kept, type Recipe, readRecipes, recipeOf } from './pack.ts';
import type { CarriedFile } from './ports.ts';

/** Beside the files of an earlier version: what they are made of, as whoever packed them last has found. */
const indexName = 'index';

/**
 * Puts the files of a VM that went elsewhere into the folder of its earlier version, in place of what was kept of it before.
 * Where they were packed here, the pack says what they are made of, and they aren't read again. Once more changes nothing.
 */
export async function putAside(folder: string, files: { name: CarriedFile; path: string }[], pack: string): Promise<void> {
  const there = [];
  for (const file of files) if (await exists(file.path)) there.push(file);
  if (there.length === 0) return;
  const recipes = (await exists(pack)) ? await readRecipes(pack, true) : [];
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const { name, path } of there) await rename(path, join(folder, name));
  await writeIndex(folder, recipes);
}

/** The files of an earlier version, if there is one, which is in use from now on; those whose recipe is missing are read. */
export async function keptVersion(folder: string): Promise<Kept[]> {
  if (!(await exists(folder))) return [];
  const now = new Date();
  await utimes(folder, now, now);
  const index = join(folder, indexName);
  const written = (await exists(index)) ? await readRecipes(index, false) : [];
  const kept: Kept[] = [];
  for (const name of await readdir(folder)) {
    // What a write of it that was cut short has left as well.
    if (name.startsWith(indexName)) continue;
    const path = join(folder, name);
    const { size } = await stat(path);
    const known = written.find((recipe) => recipe.name === name && recipe.sizeBytes === size);
    kept.push({ path, recipe: known ?? (await readThrough(path, name as CarriedFile)) });
  }
  const recipes = kept.map(({ recipe }) => recipe);
  if (recipes.some((recipe) => !written.includes(recipe))) await writeIndex(folder, recipes);
  return kept;
}

async function readThrough(path: string, name: CarriedFile): Promise<Recipe> {
  const handle = await open(path, 'r');
  try {
    return await recipeOf(name, handle);
  } finally {
    await handle.close();
  }
}

/** In one step: half an index would be worse than none. */
const writeIndex = (folder: string, recipes: readonly Recipe[]): Promise<void> =>
  replaceWhole(join(folder, indexName), encodeRecipes(recipes));
