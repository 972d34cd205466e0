import { readFile, writeFile } from 'node:fs/promises';
import { isErrno } from '../host/files.ts';

/** A kernel without IPv6 doesn't have the file, and needs no setting. */
export async function sysctl(name: string, value: string): Promise<void> {
  const path = `/proc/sys/${name}`;
  try {
    if ((await readFile(path, 'utf8')).trim() !== value) await writeFile(path, value);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw error;
  }
}
