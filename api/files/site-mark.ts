import { randomBytes } from 'node:crypto';
import { open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { RepositoryMark } from '../../model/repository/sweep.ts';
import { isNoSuchFile } from './byte-store.ts';

const Mark = z.object({ site: z.string().min(1), mark: z.int().min(0) });
const fileOf = (root: string): string => join(root, 'site.json');

/** Which ledger's site the repository is of; null: none has swept it yet. A file that can't be read is an error. */
export async function readSiteMark(root: string): Promise<RepositoryMark | null> {
  try {
    return Mark.parse(JSON.parse(await readFile(fileOf(root), 'utf8')));
  } catch (error) {
    if (isNoSuchFile(error)) return null;
    throw error;
  }
}

/** Replaces it as a whole, and durably. */
export async function writeSiteMark(root: string, mark: RepositoryMark): Promise<void> {
  const partial = `${fileOf(root)}.${randomBytes(6).toString('hex')}`;
  const file = await open(partial, 'wx', 0o600);
  try {
    await file.writeFile(`${JSON.stringify(mark)}\n`);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(partial, fileOf(root));
}
