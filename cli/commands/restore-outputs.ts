import { chmod, mkdir, readFile, utimes } from 'node:fs/promises';

/** What a task with `outputManifest` has of each node beside its files. */
export const manifestPath = '.berth-outputs.json';

interface Entry {
  path: string;
  mode: string;
  modifiedAt: string;
}

/**
 * Gives fetched files the modes and times that they had in the guest, and makes folders that were empty. Links are left to
 * the caller: a guest chose where they lead to.
 * @param placeOf where a path of the manifest is here; refuses what would be elsewhere
 * @param fetched paths of the files that were fetched
 */
export async function restoreOutputs(
  manifest: string,
  placeOf: (path: string) => string,
  fetched: ReadonlySet<string>,
): Promise<void> {
  const { files, folders } = JSON.parse(await readFile(manifest, 'utf8')) as { files: Entry[]; folders: Entry[] };
  for (const { path } of folders) await mkdir(placeOf(path), { recursive: true });
  // Folders last, the deepest first: a file that is written changes its folder's time, and may need its permissions.
  const entries = [...files.filter(({ path }) => fetched.has(path)), ...folders.toReversed()];
  for (const { path, mode, modifiedAt } of entries) {
    const time = new Date(modifiedAt);
    await chmod(placeOf(path), Number.parseInt(mode, 8) & 0o777);
    if (!Number.isNaN(time.getTime())) await utimes(placeOf(path), time, time);
  }
}
