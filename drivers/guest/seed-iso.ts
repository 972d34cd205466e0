import { chmod, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFile } from '../host/files.ts';
import { run } from '../host/run-process.ts';

const deadlineMs = 30_000;

/**
 * Writes an ISO image (ISO 9660 with Rock Ridge and Joliet names) with these files in its root, completely or not at all.
 * @param files by name: letters, digits, "-" and "."
 */
export async function writeIso(path: string, label: string, files: Record<string, string>): Promise<void> {
  const folder = `${path}.files`;
  const partial = `${path}.partial`;
  for (const leftover of [folder, partial]) await rm(leftover, { recursive: true, force: true });
  await mkdir(folder, { mode: 0o700 });
  try {
    for (const [name, text] of Object.entries(files)) {
      if (!/^[a-z0-9-][a-z0-9.-]{0,29}$/.test(name))
        throw new Error(`BUG: ${JSON.stringify(name)} can't name a file of an ISO image`);
      await writeFile(join(folder, name), text, { mode: 0o600 });
    }
    await run(['xorrisofs', '-quiet', '-volid', label, '-rock', '-joliet', '-output', partial, folder], { deadlineMs });
    await chmod(partial, 0o600);
    await syncFile(partial);
    await rename(partial, path);
  } finally {
    for (const leftover of [folder, partial]) await rm(leftover, { recursive: true, force: true });
  }
}
