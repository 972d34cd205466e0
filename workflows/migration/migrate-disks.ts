import { CancellationScope } from '@temporalio/workflow';
import type { MigrationJob } from '../../model/migration.ts';
import type { TaskError } from '../../model/task.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { notifyReconciliation, notifyWaiters } from '../durable/notify.ts';
import {
  closedPhases,
  type MigrationRun,
  retryForever,
  setPhaseBytes,
  trackPhase,
  withCleanupTimeout,
  withProgressReports,
} from './migrate-vm.ts';

/**
 * The disks of a VM that has moved follow it, while it runs. An abort, or the end of its task, ends that: then they stay
 * at their home, as after every other migration. Which of the two it is, its host says in the end, and nobody guesses.
 */
export async function runDiskMigration(move: MigrationRun, root: CancellationScope): Promise<'here' | 'there'> {
  const { target, route: place, progress } = move;
  let cause: TaskError | null = null;
  let bytes = 0;
  const sinceMs = Date.now();
  const copying = new CancellationScope();
  root.cancelRequested.catch(() => copying.cancel());
  try {
    const bring = () => copying.run(() => target.migrateDisks(place.vm));
    ({ bytes } = await trackPhase(move, 'moveDisk', () =>
      withProgressReports(move, () => diskMigrationJob(move, sinceMs), bring),
    ));
    setPhaseBytes(move, 'moveDisk', bytes);
  } catch (error) {
    cause = root.consideredCancelled
      ? { code: 'migration-aborted', message: 'The disks stay at their home: the migration was aborted before they had followed' }
      : taskErrorOf(error);
  }
  const where = await move.retry.run(
    () => target.resolveDiskMigration(place.vm),
    (error) => progress.setDetail('disks', `**it isn't known where the disks are**: ${taskErrorOf(error).message}`),
  );
  const stayed = cause ?? { code: 'hypervisor', message: 'The copy of the disks came to nothing, and nobody said why' };
  const end = { error: where === 'here' ? null : stayed, bytes, phases: closedPhases(move) };
  await notifyWaiters(await retryForever(move, (ledger) => ledger.finishDiskMove(move.id, end)));
  if (where === 'here') await cleanUpOldHome(move);
  return where;
}

/** At the pace so far; the guest's own writes go to both sides, and are in nobody's way. */
async function diskMigrationJob({ target, vmId }: MigrationRun, sinceMs: number): Promise<MigrationJob | null> {
  const copies = await target.observeDiskMigration(vmId);
  if (copies === null) return null;
  const { copiedBytes, totalBytes } = copies;
  const elapsedMs = Math.max(1, Date.now() - sinceMs);
  return {
    active: true,
    elapsedMs,
    totalBytes,
    processedBytes: copiedBytes,
    remainingBytes: totalBytes - copiedBytes,
    dirtyBytesPerS: 0,
    bytesPerS: Math.round((copiedBytes * 1000) / elapsedMs),
  };
}

/** A home that is silent now is cleaned by its own reconciliation. */
async function cleanUpOldHome({ route: place, pace, vmId, progress }: MigrationRun): Promise<void> {
  try {
    await withCleanupTimeout(pace, () => onHost(place.home.id, pace, 'throw').removeLeftover(vmId, place.vm.generation, false));
  } catch (error) {
    progress.setDetail('release', `${place.home.id} is left to its reconciliation: ${taskErrorOf(error).message}`);
    await notifyReconciliation(place.home.id);
  }
}
