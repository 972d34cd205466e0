import { rm } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import type { Ledger } from '../../ledger/client.ts';
import type { Logger } from '../../model/log.ts';
import type { Repository } from './repository.ts';

/** Nothing younger is touched: an upload in progress writes more often than that, or its connection is ended. */
const minOrphanAgeMs = 3_600_000;
const intervalMs = 600_000;
const batch = 500;
const dayMs = 24 * 3_600_000;

interface Deps {
  ledger: Ledger;
  repository: Repository;
  log: Logger;
  clock: () => number;
  /** For how long a task's log is kept after its end. */
  logRetentionDays: number;
}

export interface Swept {
  partials: number;
  uploads: number;
  bytes: number;
  logs: number;
}

/** Partial files whose upload is dead. */
async function sweepPartials({ repository }: Deps, before: number): Promise<{ removed: number; alive: Set<string> }> {
  const alive = new Set<string>();
  let removed = 0;
  for await (const { fileId, path, writtenAtMs } of repository.bytes.partials()) {
    if (writtenAtMs >= before) alive.add(fileId);
    else {
      await rm(path, { force: true });
      removed += 1;
    }
  }
  return { removed, alive };
}

/** Claims whose upload is dead. One that became a file meanwhile is not `uploading` any more, and stays. */
async function sweepUploads({ ledger }: Deps, before: number, alive: Set<string>): Promise<number> {
  const { count } = await ledger.file.deleteMany({
    where: { state: 'uploading', createdAt: { lt: new Date(before) }, id: { notIn: [...alive] } },
  });
  return count;
}

/**
 * Bytes that no row speaks of. Old bytes never gain a row: it is written right after them, or never. And a row is
 * deleted before its bytes are, so bytes with a row are left alone whatever their age.
 */
async function sweepBytes({ ledger, repository }: Deps, before: number): Promise<number> {
  let removed = 0;
  let waiting: { fileId: string; sha256: string; path: string }[] = [];
  const flush = async () => {
    const rows = await ledger.file.findMany({
      where: { id: { in: waiting.map(({ fileId }) => fileId) } },
      select: { id: true, sha256: true },
    });
    const known = new Map(rows.map(({ id, sha256 }) => [id, sha256]));
    for (const { fileId, sha256, path } of waiting) {
      // A row without a digest is an upload whose commit may be under way.
      if (known.get(fileId) === sha256 || known.get(fileId) === null) continue;
      await rm(path, { force: true });
      removed += 1;
    }
    waiting = [];
  };
  for await (const kept of repository.bytes.files()) {
    if (kept.writtenAtMs < before) waiting.push(kept);
    if (waiting.length >= batch) await flush();
  }
  await flush();
  return removed;
}

/** Logs of tasks that ended long ago, or that no row speaks of: a row comes before the first byte, so such a task is gone. */
async function sweepLogs({ ledger, repository, clock, logRetentionDays }: Deps): Promise<number> {
  const before = new Date(clock() - logRetentionDays * dayMs);
  let removed = 0;
  let waiting: string[] = [];
  const flush = async () => {
    const kept = await ledger.task.findMany({
      where: { id: { in: waiting }, OR: [{ finishedAt: null }, { finishedAt: { gte: before } }] },
      select: { id: true },
    });
    const keep = new Set(kept.map(({ id }) => id));
    for (const taskId of waiting.filter((id) => !keep.has(id))) {
      await repository.logs.remove(taskId);
      removed += 1;
    }
    waiting = [];
  };
  for await (const taskId of repository.logs.tasks()) {
    waiting.push(taskId);
    if (waiting.length >= batch) await flush();
  }
  await flush();
  return removed;
}

/** Brings rows and bytes together again after crashes. May run in several processes at once, and at any time. */
export async function sweepRepository(deps: Deps): Promise<Swept> {
  const before = deps.clock() - minOrphanAgeMs;
  const partials = await sweepPartials(deps, before);
  const uploads = await sweepUploads(deps, before, partials.alive);
  const bytes = await sweepBytes(deps, before);
  return { partials: partials.removed, uploads, bytes, logs: await sweepLogs(deps) };
}

/** Sweeps now and then until stopped; a failed round is logged, and the next one does its work. */
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
