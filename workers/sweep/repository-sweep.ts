import { rm } from 'node:fs/promises';
import type { Repository } from '../../api/files/repository.ts';
import { readSiteMark, writeSiteMark } from '../../api/files/site-mark.ts';
import type { Ledger } from '../../ledger/client.ts';
import { sweepLogSizes } from '../../ledger/files/logs.ts';
import { sweepRemovals, sweepUploads } from '../../ledger/files/sweep.ts';
import { holdSweeps, permitSweep, recordSweep } from '../../ledger/repository/sweep-permit.ts';
import type { Logger } from '../../model/log.ts';
import { type RepositoryMark, type SweepHold, sweepHoldTexts } from '../../model/repository/sweep.ts';
import { type Repeating, startRepeating } from '../repeat.ts';
import { findOrphans, type Orphans } from './orphans.ts';
import { putBackKnown, removeOldQuarantine } from './quarantined.ts';

/** The sweep removes nothing younger: an upload in progress writes more often than that, or its connection is ended. */
const minOrphanAgeMs = 3_600_000;
const intervalMs = 600_000;
/** So few things without a row hold no sweep, whatever their share: crashes leave them. */
const usualOrphans = 10;
/** For so long after the quarantine the ledger knows which bytes it has given up: many more rounds than their removal needs. */
const removalMemoryDays = 30;
const dayMs = 24 * 3_600_000;

interface Deps {
  ledger: Ledger;
  repository: Pick<Repository, 'root' | 'bytes' | 'logs' | 'quarantine'>;
  log: Logger;
  /** ms since 1970 */
  clock: () => number;
  /** How many days a task's log is kept after its end. */
  logRetentionDays: number;
  /** How many days bytes without a row lie in quarantine before they are removed. */
  quarantineDays: number;
  /** The share of the repository that a sweep may take out. */
  maxShare: number;
}

/** What one round did: nothing when it is held, else how many of each it removed, took out or put back. */
export type Sweep =
  | { hold: SweepHold }
  | {
      hold: null;
      partials: number;
      uploads: number;
      /** Bytes that a row named, and none does any more. */
      removedBytes: number;
      /** Taken into quarantine. */
      bytes: number;
      unknownLogs: number;
      /** Of tasks and builds that ended long ago. */
      logs: number;
      putBack: number;
      /** Removed from quarantine for good. */
      removed: number;
    };

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

/** Why what was found must not be swept, or null. */
function holdOf(
  found: Orphans,
  permit: { ledgerHasFiles: boolean; acceptedOrphans: number },
  deps: Deps,
  mark: RepositoryMark | null,
): SweepHold | null {
  const orphans = found.files + found.logs;
  if (orphans <= permit.acceptedOrphans) return null;
  // A repository without a mark may be that of any ledger; one with a mark was this one's, and crashes leave some orphans.
  if (!permit.ledgerHasFiles && found.files > (mark === null ? 0 : usualOrphans)) return 'ledger-empty';
  if (orphans > Math.max(usualOrphans, deps.maxShare * found.kept)) return 'share';
  return null;
}

/**
 * Makes rows and bytes consistent again after crashes. Takes nothing out where the ledger may be the wrong one: see
 * docs/repository.md. May run in several processes at once, and at any time.
 */
export async function sweepRepository(deps: Deps): Promise<Sweep> {
  const { ledger, repository, clock } = deps;
  const mark = await readSiteMark(repository.root);
  const permit = await permitSweep(ledger, mark, clock());
  // Also by a held sweep: the ledger that has returned may be the one that is held, and this takes nothing out.
  const putBack = await putBackKnown(deps);
  if (permit.hold !== null) return { hold: permit.hold };
  const before = clock() - minOrphanAgeMs;
  const found = await findOrphans(deps, before, new Date(clock() - deps.logRetentionDays * dayMs));
  const hold = holdOf(found, permit, deps, mark);
  if (hold !== null) {
    await holdSweeps(ledger, hold, { mark, kept: found.kept, orphans: found.files + found.logs }, clock());
    return { hold };
  }
  await writeSiteMark(repository.root, permit.mark);
  let [bytes, unknownLogs] = [0, 0];
  for (const path of found.filePaths) if (await repository.quarantine.take(path, clock())) bytes += 1;
  for (const path of found.logPaths) if (await repository.quarantine.take(path, clock())) unknownLogs += 1;
  for (const path of found.removedPaths) await rm(path, { force: true });
  const partials = await sweepPartials(deps, before);
  const uploads = await sweepUploads(ledger, new Date(before), partials.active);
  for (const holder of found.expiredLogs) await repository.logs.remove(holder);
  await sweepLogSizes(ledger, found.expiredLogs);
  const removed = await removeOldQuarantine(deps, clock() - deps.quarantineDays * dayMs);
  await sweepRemovals(ledger, new Date(clock() - (deps.quarantineDays + removalMemoryDays) * dayMs));
  const removedBytes = found.removedPaths.length;
  const counts = {
    partials: partials.removed,
    uploads,
    removedBytes,
    bytes,
    unknownLogs,
    logs: found.expiredLogs.length,
    putBack,
    removed,
  };
  await recordSweep(ledger, counts, clock());
  return { hold: null, ...counts };
}

function report({ log }: Deps, sweep: Sweep): void {
  if (sweep.hold !== null)
    log.error({ hold: sweep.hold }, `the repository is not swept: ${sweepHoldTexts[sweep.hold]}; see docs/repository.md`);
  else if (Object.values(sweep).some((count) => count !== null && count > 0)) log.info(sweep, 'the repository was swept');
}

/** Sweeps every ten minutes until it is stopped. */
export function startRepositorySweep(deps: Deps): Repeating {
  return startRepeating({
    step: async () => {
      report(deps, await sweepRepository(deps));
      return 'done';
    },
    intervalMs,
    log: deps.log,
    level: 'error',
    failure: 'sweeping the repository failed; the next round does its work',
  });
}
