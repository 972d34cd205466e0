import type { Repository } from '../../api/files/repository.ts';
import type { Ledger } from '../../ledger/client.ts';
import { bytesName, readFileDigests, readLogHolders, readRemovedBytes } from '../../ledger/files/sweep.ts';
import { inBatches } from './in-batches.ts';

/** What is in the repository, and what of it no row names. Nothing is removed while this is counted. */
export interface Orphans {
  /** All files and logs. */
  kept: number;
  /** How many files and logs no row names. */
  files: number;
  logs: number;
  /** Paths of the first of them; the next sweep takes the rest. */
  filePaths: string[];
  /** Bytes that the ledger knows to be nobody's any more. */
  removedPaths: string[];
  logPaths: string[];
  /** Tasks and builds that ended long ago. */
  expiredLogs: string[];
}

/** Bounds the memory of a sweep: a repository of another site has as many orphans as files. */
const maxPaths = 100_000;

interface Sources {
  ledger: Ledger;
  repository: Pick<Repository, 'bytes' | 'logs'>;
}

/**
 * Finds bytes that no row names. Old bytes never get a row: it is written right after them, or never. A row is deleted
 * before its bytes are, so bytes with a row are kept whatever their age.
 */
async function findFiles({ ledger, repository }: Sources, before: number, found: Orphans): Promise<void> {
  async function* old() {
    for await (const file of repository.bytes.files()) {
      found.kept += 1;
      if (file.writtenAtMs < before) yield file;
    }
  }
  await inBatches(old(), async (files) => {
    const ids = files.map(({ fileId }) => fileId);
    const [digests, removed] = await Promise.all([readFileDigests(ledger, ids), readRemovedBytes(ledger, ids)]);
    for (const { fileId, sha256, path } of files) {
      // A row without a digest is an upload whose commit may be under way.
      if (digests.get(fileId) === sha256 || digests.get(fileId) === null) continue;
      if (removed.has(bytesName(fileId, sha256))) {
        if (found.removedPaths.length < maxPaths) found.removedPaths.push(path);
        continue;
      }
      found.files += 1;
      if (found.filePaths.length < maxPaths) found.filePaths.push(path);
    }
  });
}

/** Finds logs of tasks and builds that ended long ago, and those that have no row: a row precedes the first byte. */
async function findLogs({ ledger, repository }: Sources, endedSince: Date, found: Orphans): Promise<void> {
  await inBatches(repository.logs.tasks(), async (ids) => {
    const holders = await readLogHolders(ledger, ids, endedSince);
    found.kept += ids.length;
    for (const id of ids) {
      const state = holders.get(id);
      if (state === 'expired') found.expiredLogs.push(id);
      if (state !== undefined) continue;
      found.logs += 1;
      if (found.logPaths.length < maxPaths) found.logPaths.push(repository.logs.folder(id));
    }
  });
}

/**
 * @param before ms since 1970: younger bytes are nobody's concern yet
 * @param endedSince logs of what ended before are expired
 */
export async function findOrphans(sources: Sources, before: number, endedSince: Date): Promise<Orphans> {
  const found: Orphans = { kept: 0, files: 0, logs: 0, filePaths: [], removedPaths: [], logPaths: [], expiredLogs: [] };
  await findFiles(sources, before, found);
  await findLogs(sources, endedSince, found);
  return found;
}
