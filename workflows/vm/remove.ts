import type { VmLocation } from '../../contracts/ledger.ts';
import type { TaskError } from '../../model/task.ts';
import { taskErrorOf } from '../durable/failure.ts';
import { cancelIfRunning, notifyWaiters } from '../durable/other-workflows.ts';
import { isoNow } from '../durable/progress.ts';
import { markStuck, retryOnLedger, type VmRun, vmHost } from './vm-run.ts';
import { waitUntilSettled } from './wait-until-settled.ts';

/** Removes the VM from every state. Retries until it succeeds; no other component removes it. */
export async function remove(run: VmRun, error: TaskError | null): Promise<void> {
  const { ledger, id, progress, retry } = run;
  progress.setDetail('step', `**removing** since ${isoNow()}${error === null ? '' : `: ${error.message}`}`);
  let endedAt: string | null = null;
  await retry.run(
    async () => {
      const { state, host, home, generation } = await settleForRemoval(run);
      if (host === null || state === 'pending' || state === 'removed') return;
      await vmHost(run, host).removeVm(id, generation);
      endedAt ??= isoNow();
      if (home !== null && home !== host) await vmHost(run, home).removeDisks(id, generation);
    },
    (error) => markStuck(run, taskErrorOf(error)),
  );
  await notifyWaiters(await retryOnLedger(run, () => ledger.finishVm(id, { endedAt, error, reportedAt: isoNow() })));
  progress.setAttributes({ state: 'removed' });
}

/** Cancels a migration that is under way; from then on no other one begins. */
async function settleForRemoval(run: VmRun): Promise<VmLocation> {
  const location = await waitUntilSettled(run, cancelIfRunning);
  const hasEnded = location.state === 'pending' || location.state === 'removed';
  return hasEnded ? location : run.ledger.setVmState(run.id, 'removing');
}
