import { CancellationScope } from '@temporalio/workflow';
import type { LedgerActivities } from '../activities/ledger/contract.ts';
import type { HostId, VmId } from '../model/ids.ts';
import type { TaskError } from '../model/task.ts';
import { codeOf, taskErrorOf } from './failure.ts';
import type { Insistence } from './insistence.ts';
import { onHost } from './on-host.ts';
import { tellPlaced } from './tell.ts';

/** Whose VM it is: its own workflow, or that of the task that it belongs to. */
export interface PowerRun {
  ledger: LedgerActivities;
  insistence: Insistence;
  pace: number;
  /** A host that does not answer is waited for; this is told. */
  silent: (host: HostId, step: string) => void;
  /** What is tried again, because nobody else will. */
  refused: (error: unknown) => void;
}

/** Until its host was asked for anything, there is nothing to undo there. */
const nothing: () => Promise<unknown> = async () => undefined;

const at = (run: PowerRun, host: HostId) => onHost(host, run.pace, { wait: (step) => run.silent(host, step) });

/**
 *   step      on the host of the VM            undone by
 *   begin     (ledger) a new generation        rollBackPower
 *   suspend   memory saved, domain ended       restoreVm: it runs again, or ran all the time
 *   commit    (ledger) room freed, event
 *
 * @returns why it came to nothing; null when the VM is suspended.
 */
export async function suspend(run: PowerRun, id: VmId): Promise<TaskError | null> {
  return CancellationScope.nonCancellable(async () => {
    let undo = nothing;
    try {
      const { vm, disksAt } = await run.ledger.beginSuspension(id);
      undo = () => at(run, vm.host).restoreVm({ vm, disksAt });
      await at(run, vm.host).suspendVm(vm);
    } catch (error) {
      return undone(run, id, error, undo);
    }
    await tellPlaced(await run.insistence.on(() => run.ledger.commitSuspension(id), run.refused));
    return null;
  });
}

/** The reverse; what it began is undone by suspendVm, which is nothing where the VM never woke. */
export async function restore(run: PowerRun, id: VmId): Promise<TaskError | null> {
  return CancellationScope.nonCancellable(async () => {
    let undo = nothing;
    try {
      const { vm, disksAt } = await run.ledger.beginRestoration(id);
      undo = () => at(run, vm.host).suspendVm(vm);
      await at(run, vm.host).restoreVm({ vm, disksAt });
    } catch (error) {
      return undone(run, id, error, undo);
    }
    await run.insistence.on(() => run.ledger.commitRestoration(id), run.refused);
    return null;
  });
}

/** Brings the VM back to where it was. One that neither runs nor has its memory is lost, which is for an operator. */
async function undone(run: PowerRun, id: VmId, error: unknown, undo: () => Promise<unknown>): Promise<TaskError> {
  const why = taskErrorOf(error);
  let lost = codeOf(error) === 'vm-lost';
  if (!lost)
    await run.insistence.on(
      async () => {
        try {
          await undo();
        } catch (again) {
          if (codeOf(again) !== 'vm-lost') throw again;
          lost = true;
        }
      },
      (again) => run.refused(again),
    );
  await tellPlaced(await run.insistence.on(() => run.ledger.rollBackPower(id, why, lost), run.refused));
  return why;
}
