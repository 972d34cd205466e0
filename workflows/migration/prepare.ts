import type { CancellationScope } from '@temporalio/workflow';
import type { PortableRecord } from '../../contracts/host-migration.ts';
import type { ImageRef } from '../../model/vm.ts';
import { onHost, recordIfFetched } from '../durable/activity-proxies.ts';
import { allOrCancel } from '../durable/cancellation-scopes.ts';
import { codeOf, neverStarted } from '../durable/failure.ts';
import { withFreshUrls } from '../durable/fresh-urls.ts';
import { notifyReconciliation } from '../durable/other-workflows.ts';
import { abortReason, type MigrationAttempt, type MigrationRun, noTransfer } from './migration-run.ts';
import { trackPhase } from './phases.ts';

/** Runs the phase `prepare`. It doesn't wait for an unreachable target: no VM has to move to that host. */
export async function runPrepare<T>(
  run: MigrationRun,
  root: CancellationScope,
  act: () => Promise<T>,
): Promise<T | MigrationAttempt> {
  try {
    return await trackPhase(run, 'prepare', act);
  } catch (error) {
    const isFull = codeOf(error) === 'disk-full';
    // The target checks its free disk first, and an undo would have to write to it. An earlier attempt of the activity may
    // have found free disk; the reconciliation removes what that attempt wrote.
    if (isFull) await notifyReconciliation(run.route.to.id);
    return { result: noTransfer, error: abortReason(root, error), nothingBegun: isFull || neverStarted(error) };
  }
}

/** Brings the image to the target, and reads the VM's record at the source. */
export async function prepareTarget({ source, ledger, route, vmId, pace }: MigrationRun): Promise<PortableRecord> {
  let stale = false;
  // The URLs of the route are as old as the migration's wait for its turn.
  const currentImage = async (): Promise<ImageRef> => {
    const image = stale ? await ledger.issueImageRef(route.vm.image.id, route.to.id) : route.vm.image;
    stale = true;
    return image;
  };
  const fetchImage = async (): Promise<null> => {
    // A target without the image fetches it; only what the VM wrote is read over the network.
    const { from } = await withFreshUrls(currentImage, (image) => onHost(route.to.id, pace, 'throw').ensureImage(image));
    await recordIfFetched(ledger, route.vm, from);
    return null;
  };
  const [record] = await allOrCancel([
    () => source.readPortableRecord(vmId, route.sourceGeneration, route.vm.onReboot === 'destroy'),
    fetchImage,
  ]);
  if (record == null) throw new Error('BUG: the source returned no record');
  return record;
}
