import type { LedgerActivities } from '../../contracts/ledger.ts';
import { workflowId } from '../../model/temporal.ts';
import { cancelIfRunning, startDetached } from '../durable/other-workflows.ts';
import { timing } from '../durable/timeouts.ts';
import { buildImage } from './build-image.ts';
import { retireImage } from './retire-image.ts';

/** Housekeeping of images: starts and cancels builds for which the API failed to, and sweeps retired images. */
export async function runImageHousekeeping(pace: number, ledger: LedgerActivities): Promise<void> {
  const { orphanedAfterS } = timing(pace);
  const unstarted = await ledger.listBuildsWithoutWorkflow(orphanedAfterS);
  await Promise.all(
    unstarted.map(({ id, name, digest }) => startDetached(buildImage, workflowId.build(name, digest), [id, pace])),
  );
  const toCancel = await ledger.listBuildsToCancel(orphanedAfterS);
  await Promise.all(toCancel.map(({ name, digest }) => cancelIfRunning(workflowId.build(name, digest))));
  const retired = await ledger.listImagesToSweep();
  await Promise.all(retired.map((id) => startDetached(retireImage, workflowId.retire(id), [id, pace])));
}
