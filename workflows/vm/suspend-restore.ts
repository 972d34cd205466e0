import { CancellationScope } from '@temporalio/workflow';
import type { LedgerActivities } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { TaskError } from '../../model/task.ts';
import { onHost } from '../durable/activity-proxies.ts';
import { codeOf, taskErrorOf } from '../durable/failure.ts';
import { notifyWaiters } from '../durable/notify.ts';
import type { RetryForever } from '../durable/retry-forever.ts';

/** Whose VM it is: its own workflow, or that of the task that it belongs to. */
export interface SuspensionRun {
  ledger: LedgerActivities;
  retry: RetryForever;
  pace: number;
  /** A host that does not answer is waited for; this is told. */
  onUnreachable: (host: HostId, step: string) => void;
  /** What is tried again, because nobody else will. */
  onRefusal: (error: unknown) => void;
}

/** Until its host was asked for anything, there is nothing to undo there. */
const noUndo: () => Promise<unknown> = async () => undefined;

const hostActivitiesOf = (run: SuspensionRun, host: HostId) =>
  onHost(host, run.pace, { wait: (step) => run.onUnreachable(host, step) });

/**
 *   step      on the host of the VM            undone by
 *   begin     (ledger) a new generation        rollBackPower
 *   suspend   memory saved, domain ended       restoreVm: it runs again, or ran all the time
 *   commit    (ledger) room freed, event
 *
 * @returns why it came to nothing; null when the VM is suspended.
 */
export async function suspend(run: SuspensionRun, id: VmId): Promise<TaskError | null> {
  return CancellationScope.nonCancellable(async () => {
    let undo = noUndo;
    try {
      const { vm, diskHostAddress: disksAt } = await run.ledger.beginSuspension(id);
      undo = () => hostActivitiesOf(run, vm.host).restoreVm({ vm, diskHostAddress: disksAt });
      await hostActivitiesOf(run, vm.host).suspendVm(vm);
    } catch (error) {
      return rollBack(run, id, error, undo);
    }
    await notifyWaiters(await run.retry.run(() => run.ledger.commitSuspension(id), run.onRefusal));
    return null;
  });
}

/** The reverse; what it began is undone by suspendVm, which is nothing where the VM never woke. */
export async function restore(run: SuspensionRun, id: VmId): Promise<TaskError | null> {
  return CancellationScope.nonCancellable(async () => {
    let undo = noUndo;
    try {
      const { vm, diskHostAddress: disksAt } = await run.ledger.beginRestoration(id);
      undo = () => hostActivitiesOf(run, vm.host).suspendVm(vm);
      await hostActivitiesOf(run, vm.host).restoreVm({ vm, diskHostAddress: disksAt });
    } catch (error) {
      return rollBack(run, id, error, undo);
    }
    await run.retry.run(() => run.ledger.commitRestoration(id), run.onRefusal);
    return null;
  });
}

/** Brings the VM back to where it was. One that neither runs nor has its memory is lost, which is for an operator. */
async function rollBack(run: SuspensionRun, id: VmId, error: unknown, undo: () => Promise<unknown>): Promise<TaskError> {
  const why = taskErrorOf(error);
  let lost = codeOf(error) === 'vm-lost';
  if (!lost)
    await run.retry.run(
      async () => {
        try {
          await undo();
        } catch (again) {
          if (codeOf(again) !== 'vm-lost') throw again;
          lost = true;
        }
      },
      (again) => run.onRefusal(again),
    );
  await notifyWaiters(await run.retry.run(() => run.ledger.rollBackSuspension(id, why, lost), run.onRefusal));
  return why;
}
