import { CancellationScope } from '@temporalio/workflow';
import type { MigrationJob } from '../../model/migration.ts';
import type { TaskError } from '../../model/task.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/other-workflows.ts';
import { persistForever } from '../durable/retry-forever.ts';
import { cleanUpOrReconcile } from './clean-up.ts';
import type { MigrationRun } from './migration-run.ts';
import { closedPhases, type PhaseRow, setPhaseBytes, trackPhase } from './phases.ts';
import { withProgressReports } from './progress-reports.ts';

export const diskPhase: PhaseRow = {
  name: 'moveDisk',
  does: 'where requested: copies the disks to the host where the VM runs',
  undoneBy: 'nothing: the disks remain at their home, and the VM runs on',
};

/**
 * Moves the disks of a running VM from their home to its host. An abort, or the end of its task, cancels that: then they
 * remain at their home. The target says in the end which of the two has happened.
 */
export async function runDiskMigration(run: MigrationRun, root: CancellationScope): Promise<'here' | 'there'> {
  const { target, route, progress } = run;
  let cause: TaskError | null = null;
  let bytes = 0;
  const sinceMs = Date.now();
  const copying = new CancellationScope();
  root.cancelRequested.catch(() => copying.cancel());
  try {
    const copy = () => copying.run(() => target.migrateDisks(route.vm));
    ({ bytes } = await trackPhase(run, 'moveDisk', () => withProgressReports(run, () => diskMigrationJob(run, sinceMs), copy)));
    setPhaseBytes(run, 'moveDisk', bytes);
  } catch (error) {
    cause = root.consideredCancelled
      ? { code: 'migration-aborted', message: 'The disks remain at their home: the migration was aborted before they had moved' }
      : taskErrorOf(error);
  }
  const disksAt = await run.retry.run(
    () => target.resolveDiskMigration(route.vm),
    (error) => progress.setDetail('disks', `**it isn't known where the disks are**: ${taskErrorOf(error).message}`),
  );
  const reason = cause ?? { code: 'hypervisor', message: 'The copy of the disks ended without success, and without an error' };
  const end = { error: disksAt === 'here' ? null : reason, bytes, phases: closedPhases(run) };
  await notifyWaiters(await persistForever(run, 'the end of the disk migration', (ledger) => ledger.finishDiskMove(run.id, end)));
  if (disksAt === 'here')
    await cleanUpOrReconcile(run, route.home.id, (home) => home.removeLeftover(run.vmId, route.vm.generation, false));
  return disksAt;
}

/** Extrapolates from the average rate so far; what the guest writes goes to both sides, and is not left to copy. */
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
