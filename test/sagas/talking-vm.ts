import { WorkflowFailedError } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import { isErrorCode } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import type { FakeSite } from './fake-site.ts';

/** A VM that a short workflow reaches at its host; it is not placed yet. */
export async function acceptTalkingVm(site: FakeSite): Promise<VmId> {
  const order = VmRequest.parse({ name: 'talks', image: await site.publishImage() });
  return site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order, nowMs: Date.now() }));
}

export const rowOf = (site: FakeSite, vm: VmId) => site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });

/** Resolves when its guest is as requested. */
export async function runTalkingVm(site: FakeSite, vm: VmId): Promise<void> {
  await site.client.workflow.start(workflowType.vm, {
    taskQueue: controlQueue,
    workflowId: workflowId.vm(vm),
    args: [vm, site.pace],
  });
  await site.until('it runs', async () => (await rowOf(site, vm)).hostKey !== null);
}

/** A workflow's result, or the code of its error. */
export async function resultOrCode(result: Promise<string>): Promise<string> {
  try {
    return await result;
  } catch (error) {
    const met = error instanceof WorkflowFailedError ? error.cause : undefined;
    if (met instanceof ApplicationFailure && isErrorCode(met.type ?? '')) return met.type!;
    throw error;
  }
}

/** The same of a workflow that a fault may have cancelled. */
export const resultOrCancelled = (result: Promise<string>): Promise<string> =>
  result.catch((error: unknown) => (error instanceof WorkflowFailedError ? 'cancelled' : Promise.reject(error)));
