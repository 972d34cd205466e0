import { randomUUID } from 'node:crypto';
import { lstat, mkdir, readdir, rename } from 'node:fs/promises';
import { sep } from 'node:path';
import { escapeName, unescapeName } from '../../../model/outputs/names.ts';
import { CommandError, type Connection, listItems } from '../../client.ts';
import type { Output } from '../../output.ts';
import { download, type StoredFile } from '../files.ts';

/** An entry of a tree, as the API has it. */
export interface Entry {
  path: string;
  kind: 'file' | 'folder';
  file: string | null;
  sizeBytes: number | null;
  sha256: string | null;
  metadata: Record<string, string>;
  expiresAt: string | null;
  modifiedAt: string;
}

/** The route of a path: each name encoded, its slashes not. */
export const entryRoute = (path: string): string => `/v1/tree/${path.split('/').map(encodeURIComponent).join('/')}`;

const slash = Buffer.from(sep);

/** A file of this machine: its path as bytes, and the text of its path below the folder that was walked. */
interface LocalFile {
  path: Buffer;
  text: string;
}

/** The files in a folder of this machine, by names as bytes. `skipped` is told of what is neither file nor folder. */
export async function* localFiles(folder: Buffer, skipped: (path: string) => void, below = ''): AsyncIterable<LocalFile> {
  const names = await readdir(folder, { encoding: 'buffer' });
  for (const name of names.sort(Buffer.compare)) {
    const path = Buffer.concat([folder, slash, name]);
    const text = `${below}${escapeName(name)}`;
    const found = await lstat(path);
    if (found.isDirectory()) yield* localFiles(path, skipped, `${text}/`);
    else if (found.isFile()) yield { path, text };
    else skipped(text);
  }
}

/** Where a path of a tree is below a folder of this machine; a name that would lead out of it is refused. */
function placeOf(to: string, path: string): Buffer {
  const names = path.split('/').map((text) => {
    const bytes = unescapeName(text);
    if (bytes === null || bytes.length === 0 || text === '.' || text === '..' || bytes.includes(0x2f) || bytes.includes(0))
      throw new CommandError(`The API answered with ${JSON.stringify(path)}, which is no path`);
    return Buffer.from(bytes);
  });
  return Buffer.concat([Buffer.from(to), ...names.flatMap((name) => [slash, name])]);
}

export function storedFile({ path, file, sizeBytes, sha256 }: Entry): StoredFile {
  if (file === null || sizeBytes === null || sha256 === null) throw new CommandError(`${path} is a folder`);
  return { id: file, name: path.slice(path.lastIndexOf('/') + 1), sizeBytes, sha256 };
}

/** Fetches all in a folder of the tree into a folder of this machine, with the names' own bytes. Returns how many files. */
export async function fetchFolder(connection: Connection, output: Output, folder: string, to: string): Promise<number> {
  await mkdir(to, { recursive: true });
  let count = 0;
  for await (const entry of listItems<Entry>(connection, '/v1/tree', { prefix: `${folder}/` })) {
    const place = placeOf(to, entry.path.slice(folder.length + 1));
    if (entry.kind === 'folder') {
      await mkdir(place, { recursive: true });
      continue;
    }
    // Outputs of tasks come without their folders.
    await mkdir(place.subarray(0, place.lastIndexOf(slash)), { recursive: true });
    const partial = `${to}${sep}.berth-${randomUUID()}`;
    await download(connection, output, storedFile(entry), partial);
    await rename(partial, place);
    count += 1;
  }
  return count;
}
