import { getExternalWorkflowHandle, log, startChild } from '@temporalio/workflow';
import type { BuildKey, LedgerActivities } from '../../contracts/ledger.ts';
import type { ImageId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import { detachedChild, startIfAbsent } from '../durable/detached-child.ts';
import { timing } from '../durable/timeouts.ts';
import { buildImage } from './build-image.ts';
import { retireImage } from './retire-image.ts';

/** The housekeeping's part for images: builds that nobody started or cancelled, and retired images that are still somewhere. */
export async function runImageHousekeeping(pace: number, ledger: LedgerActivities): Promise<void> {
  const { orphanedAfterS: lostAfterS } = timing(pace);
  await Promise.all((await ledger.listBuildsWithoutWorkflow(lostAfterS)).map((build) => startBuild(build, pace)));
  await Promise.all((await ledger.listBuildsToCancel(lostAfterS)).map(cancelBuild));
  await Promise.all((await ledger.listImagesToSweep()).map((id) => startRetirement(id, pace)));
}

const startBuild = ({ id, name, digest }: BuildKey, pace: number) =>
  startIfAbsent(startChild(buildImage, { ...detachedChild, workflowId: workflowId.build(name, digest), args: [id, pace] }));

const startRetirement = (id: ImageId, pace: number) =>
  startIfAbsent(startChild(retireImage, { ...detachedChild, workflowId: workflowId.retire(id), args: [id, pace] }));

async function cancelBuild({ id, name, digest }: BuildKey): Promise<void> {
  try {
    await getExternalWorkflowHandle(workflowId.build(name, digest)).cancel();
  } catch (error) {
    // It has ended meanwhile; the next round would see otherwise.
    log.info('A build could not be cancelled', { imageId: id, error: String(error) });
  }
}
