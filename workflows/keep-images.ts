import { getExternalWorkflowHandle, log, startChild } from '@temporalio/workflow';
import type { BuildName, LedgerActivities } from '../activities/ledger/contract.ts';
import type { ImageId } from '../model/ids.ts';
import { workflowId } from '../model/temporal.ts';
import { buildImage } from './build-image.ts';
import { ownWay, unlessThere } from './own-way.ts';
import { retireImage } from './retire-image.ts';
import { waits } from './timeouts.ts';

/** The housekeeping's part for images: builds that nobody started or cancelled, and retired images that are still somewhere. */
export async function keepImages(pace: number, ledger: LedgerActivities): Promise<void> {
  const { lostAfterS } = waits(pace);
  await Promise.all((await ledger.buildsWithoutWorkflow(lostAfterS)).map((build) => startBuild(build, pace)));
  await Promise.all((await ledger.buildsToCancel(lostAfterS)).map(cancelBuild));
  await Promise.all((await ledger.imagesToSweep()).map((id) => startRetirement(id, pace)));
}

const startBuild = ({ id, name, digest }: BuildName, pace: number) =>
  unlessThere(startChild(buildImage, { ...ownWay, workflowId: workflowId.build(name, digest), args: [id, pace] }));

const startRetirement = (id: ImageId, pace: number) =>
  unlessThere(startChild(retireImage, { ...ownWay, workflowId: workflowId.retire(id), args: [id, pace] }));

async function cancelBuild({ id, name, digest }: BuildName): Promise<void> {
  try {
    await getExternalWorkflowHandle(workflowId.build(name, digest)).cancel();
  } catch (error) {
    // It has ended meanwhile; the next round would see otherwise.
    log.info('A build could not be cancelled', { imageId: id, error: String(error) });
  }
}
