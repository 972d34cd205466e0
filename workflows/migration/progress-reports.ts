import { CancellationScope, isCancellation, sleep } from '@temporalio/workflow';
import { type MigrationJob, migrationEtaS } from '../../model/migration.ts';
import { Backoff } from '../durable/backoff.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { timing } from '../durable/timeouts.ts';
import { type MigrationRun, mib } from './migration-run.ts';

/**
 * Runs an act, and meanwhile records how much is transferred and how long the rest takes: at an interval, which grows with the
 * time that has passed, because a copy of hours can't continue as new.
 */
export async function withProgressReports<T>(
  run: MigrationRun,
  observe: () => Promise<MigrationJob | null>,
  act: () => Promise<T>,
): Promise<T> {
  const reporting = new CancellationScope();
  const reports = reporting.run(() => reportProgress(run, observe)).catch((error) => showUnlessCancelled(run, error));
  try {
    return await act();
  } finally {
    reporting.cancel();
    await reports;
  }
}

async function reportProgress(
  { ledger, progress, id, phases, pace }: MigrationRun,
  observe: () => Promise<MigrationJob | null>,
): Promise<never> {
  const { progressIntervalMs } = timing(pace);
  const interval = new Backoff({ initialMs: progressIntervalMs, maxMs: progressIntervalMs });
  for (;;) {
    await sleep(interval.next());
    const job = await observe();
    if (job === null) continue;
    const eta = migrationEtaS(job);
    progress.setDetail(
      'job',
      `${mib(job.processedBytes)} MiB transferred, ${mib(job.remainingBytes)} MiB left; ${eta === null ? 'does not converge' : `about ${eta} s left`}`,
    );
    await ledger.recordMigrationProgress(id, phases, job);
  }
}

/** A failed observation ends the reports, and does not fail the migration. */
function showUnlessCancelled({ progress }: MigrationRun, error: unknown): void {
  if (!isCancellation(error)) progress.setDetail('job', `its progress can't be observed: ${taskErrorOf(error).message}`);
}
