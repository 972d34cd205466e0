import { sleep } from '@temporalio/workflow';
import type { LedgerActivities, MigrationRoute } from '../../contracts/ledger.ts';
import type { MigrationId } from '../../model/migration.ts';
import { Backoff } from '../durable/backoff.ts';
import type { Progress } from '../durable/progress.ts';
import { timing } from '../durable/timeouts.ts';

/**
 * Waits until both hosts may take part in one more migration. It polls, because the ledger sends migrations no signal, and
 * less often the longer it has waited.
 */
export async function waitForAdmission(
  id: MigrationId,
  ledger: LedgerActivities,
  progress: Progress,
  pace: number,
): Promise<MigrationRoute> {
  const backoff = new Backoff(timing(pace).admissionPoll);
  for (;;) {
    const answer = await ledger.reserveMigration(id);
    if (answer.admitted) return answer.route;
    progress.setDetail('step', `**waits** for its admission: ${answer.reason}`);
    await sleep(backoff.next());
  }
}
