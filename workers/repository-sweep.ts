import { rm } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import type { ByteStore } from '../api/files/byte-store.ts';
import type { TaskLogs } from '../api/files/task-logs.ts';
import type { Ledger } from '../ledger/client.ts';
import { readFileDigests, readTasksKeepingLogs, sweepUploads } from '../ledger/files/sweep.ts';
import type { Logger } from '../model/log.ts';

/** The sweep removes nothing younger: an upload in progress writes more often than that, or its connection is ended. */
const minOrphanAgeMs = 3_600_000;
const intervalMs = 600_000;
/** How many files or tasks one query asks about. */
const batch = 500;
const dayMs = 24 * 3_600_000;

interface Deps {
  ledger: Ledger;
  repository: { bytes: ByteStore; logs: TaskLogs };
  log: Logger;
  /** ms since 1970 */
  clock: () => number;
  /** How many days a task's log is kept after its end. */
  logRetentionDays: number;
}

/** How many of each the sweep removed. */
interface Swept {
  partials: number;
  uploads: number;
  bytes: number;
  logs: number;
}

/** Calls `act` for batches of the items. */
async function inBatches<T>(items: AsyncIterable<T>, act: (items: T[]) => Promise<void>): Promise<void> {
  let waiting: T[] = [];
  for await (const item of items) {
    waiting.push(item);
    if (waiting.length < batch) continue;
    await act(waiting);
    waiting = [];
  }
  if (waiting.length > 0) await act(waiting);
}

/** Removes partial files whose upload has ended. `active`: files whose upload may still be in progress. */
async function sweepPartials({ repository }: Deps, before: number): Promise<{ removed: number; active: Set<string> }> {
  const active = new Set<string>();
  let removed = 0;
  for await (const { fileId, path, writtenAtMs } of repository.bytes.partials()) {
    if (writtenAtMs >= before) active.add(fileId);
    else {
      await rm(path, { force: true });
      removed += 1;
    }
  }
  return { removed, active };
}

/**
 * Removes bytes that no row names. Old bytes never get a row: it is written right after them, or never. A row is deleted
 * before its bytes are, so bytes with a row are kept whatever their age.
 */
async function sweepBytes({ ledger, repository }: Deps, before: number): Promise<number> {
  let removed = 0;
  async function* old() {
    for await (const file of repository.bytes.files()) if (file.writtenAtMs < before) yield file;
  }
  await inBatches(old(), async (files) => {
    const digests = await readFileDigests(
      ledger,
      files.map(({ fileId }) => fileId),
    );
    for (const { fileId, sha256, path } of files) {
      // A row without a digest is an upload whose commit may be under way.
      if (digests.get(fileId) === sha256 || digests.get(fileId) === null) continue;
      await rm(path, { force: true });
      removed += 1;
    }
  });
  return removed;
}

/** Removes logs of tasks that ended long ago, or that have no row: a row precedes the first byte, so such a task was deleted. */
async function sweepLogs({ ledger, repository, clock, logRetentionDays }: Deps): Promise<number> {
  const endedSince = new Date(clock() - logRetentionDays * dayMs);
  let removed = 0;
  await inBatches(repository.logs.tasks(), async (tasks) => {
    const keeping = await readTasksKeepingLogs(ledger, tasks, endedSince);
    for (const taskId of tasks.filter((id) => !keeping.has(id))) {
      await repository.logs.remove(taskId);
      removed += 1;
    }
  });
  return removed;
}

/** Makes rows and bytes consistent again after crashes. May run in several processes at once, and at any time. */
export async function sweepRepository(deps: Deps): Promise<Swept> {
  const before = deps.clock() - minOrphanAgeMs;
  const partials = await sweepPartials(deps, before);
  const uploads = await sweepUploads(deps.ledger, new Date(before), partials.active);
  const bytes = await sweepBytes(deps, before);
  return { partials: partials.removed, uploads, bytes, logs: await sweepLogs(deps) };
}

/** Sweeps every ten minutes until stopped; a failed round is logged, and the next one does its work. */
export function startRepositorySweep(deps: Deps): { stop(): Promise<void> } {
  const stopping = new AbortController();
  const ended = (async () => {
    while (!stopping.signal.aborted) {
      try {
        const swept = await sweepRepository(deps);
        if (Object.values(swept).some((count) => count > 0)) deps.log.info(swept, 'the repository was swept');
      } catch (error) {
        deps.log.error({ err: error }, 'sweeping the repository failed');
      }
      await pause(intervalMs, undefined, { signal: stopping.signal }).catch((error: unknown) => {
        if (!stopping.signal.aborted) throw error;
      });
    }
  })();
  return {
    stop: async () => {
      stopping.abort();
      await ended;
    },
  };
}
