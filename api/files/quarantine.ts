import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { isNoSuchFile } from './byte-store.ts';

const dayMs = 24 * 3_600_000;

/** What a sweep took out of the repository: the bytes of a file, or the logs of a task or a build. */
export interface QuarantineEntry {
  kind: 'files' | 'logs';
  /** As in the repository: <fileId>-<sha256>, or the id of a task or of a build's VM. */
  name: string;
  path: string;
  /** The end of the day on which it was taken out, in ms since 1970. */
  sinceMs: number;
}

/**
 * The folder quarantine/<day>/ of the repository, in which everything has the path that it had. What lies there is read by
 * nobody; it can be put back as long as it is not removed.
 */
export interface Quarantine {
  /** Moves a path out of the repository. Returns false when another process has. */
  take(path: string, nowMs: number): Promise<boolean>;
  list(): AsyncIterable<QuarantineEntry>;
  /** To where it was taken from. Returns false when something is there again. */
  putBack(entry: QuarantineEntry): Promise<boolean>;
  remove(entry: QuarantineEntry): Promise<void>;
}

/** The names in a folder; none where it does not exist. */
async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (isNoSuchFile(error)) return [];
    throw error;
  }
}

async function move(from: string, to: string): Promise<boolean> {
  await mkdir(dirname(to), { recursive: true, mode: 0o700 });
  try {
    await rename(from, to);
    return true;
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null;
    // Another process was first, or the logs of this name are there again.
    if (code === 'ENOENT' || code === 'ENOTEMPTY' || code === 'EEXIST') return false;
    throw error;
  }
}

export function openQuarantine(root: string): Quarantine {
  const quarantine = join(root, 'quarantine');
  return {
    take: (path, nowMs) => move(path, join(quarantine, new Date(nowMs).toISOString().slice(0, 10), relative(root, path))),

    async *list() {
      for (const day of await namesIn(quarantine)) {
        const sinceMs = Date.parse(`${day}T00:00:00Z`) + dayMs;
        for (const kind of ['files', 'logs'] as const)
          for (const group of await namesIn(join(quarantine, day, kind)))
            for (const name of await namesIn(join(quarantine, day, kind, group)))
              yield { kind, name, path: join(quarantine, day, kind, group, name), sinceMs };
      }
    },

    putBack: ({ path }) => move(path, join(root, relative(quarantine, path).split('/').slice(1).join('/'))),

    remove: ({ path }) => rm(path, { recursive: true, force: true }),
  };
}
