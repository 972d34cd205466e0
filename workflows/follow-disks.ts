import { CancellationScope } from '@temporalio/workflow';
import type { MigrationJob } from '../model/migration.ts';
import type { TaskError } from '../model/task.ts';
import { taskErrorOf } from './failure.ts';
import { countBytes, during, insist, type Move, phasesNow, soon, watched } from './migrate-vm.ts';
import { onHost } from './on-host.ts';
import { tellPlaced, tellReconciliation } from './tell.ts';

/**
 * The disks of a VM that has moved follow it, while it runs. An abort, or the end of its task, ends that: then they stay
 * at their home, as after every other migration. Which of the two it is, its host says in the end, and nobody guesses.
 */
export async function followWithDisks(move: Move, root: CancellationScope): Promise<'here' | 'there'> {
  const { target, place, progress } = move;
  let cause: TaskError | null = null;
  let bytes = 0;
  const sinceMs = Date.now();
  const copying = new CancellationScope();
  root.cancelRequested.catch(() => copying.cancel());
  try {
    const bring = () => copying.run(() => target.bringDisks(place.vm));
    ({ bytes } = await during(move, 'moveDisk', () => watched(move, () => progressOf(move, sinceMs), bring)));
    countBytes(move, 'moveDisk', bytes);
  } catch (error) {
    cause = root.consideredCancelled
      ? { code: 'migration-aborted', message: 'The disks stay at their home: the migration was aborted before they had followed' }
      : taskErrorOf(error);
  }
  const where = await move.insistence.on(
    () => target.settleDisks(place.vm),
    (error) => progress.say('disks', `**it isn't known where the disks are**: ${taskErrorOf(error).message}`),
  );
  const stayed = cause ?? { code: 'hypervisor', message: 'The copy of the disks came to nothing, and nobody said why' };
  const end = { error: where === 'here' ? null : stayed, bytes, phases: phasesNow(move) };
  await tellPlaced(await insist(move, (ledger) => ledger.endDiskMove(move.id, end)));
  if (where === 'here') await leaveOldHome(move);
  return where;
}

/** At the pace so far; the guest's own writes go to both sides, and are in nobody's way. */
async function progressOf({ target, vmId }: Move, sinceMs: number): Promise<MigrationJob | null> {
  const copies = await target.observeDisks(vmId);
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
    iterations: 0,
  };
}

/** A home that is silent now is cleaned by its own reconciliation. */
async function leaveOldHome({ place, pace, vmId, progress }: Move): Promise<void> {
  try {
    await soon(pace, () => onHost(place.home.id, pace, 'throw').leaveHost(vmId, place.vm.generation, false));
  } catch (error) {
    progress.say('release', `${place.home.id} is left to its reconciliation: ${taskErrorOf(error).message}`);
    await tellReconciliation(place.home.id);
  }
}
