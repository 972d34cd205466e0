import type { VmId } from '../../model/ids.ts';
import { isoNow } from '../transaction.ts';
import { backoffMs, type DrainContext } from './drain-row.ts';
import type { DrainVmState } from './host-vms.ts';
import { tryAcceptOperation } from './suspended-in-place.ts';

/** Asks the VM's own workflow to suspend it, as its owner could. Returns false where that is impossible at this moment. */
export async function requestSuspension(context: DrainContext, vm: DrainVmState): Promise<boolean> {
  if (!(await tryAcceptOperation(context.tx, vm.id, 'suspend', context.nowMs))) return false;
  await recordSuspension(context, vm);
  context.vmsToNotify.push(vm.id as VmId);
  return true;
}

/** Takes over a VM that its owner suspended before, unless the owner has just requested an operation on it. */
export async function claimIfSuspended(context: DrainContext, vm: DrainVmState): Promise<boolean> {
  const { operation } = await context.tx.vm.findUniqueOrThrow({ where: { id: vm.id }, select: { operation: true } });
  if (operation === null) await recordSuspension(context, vm);
  return operation === null;
}

/** From here on the ledger knows for which drain the VM is suspended: a saga that is killed now still finds it, and the opening of the host ends it. */
async function recordSuspension({ tx, drain, deps }: DrainContext, { id, suspended }: DrainVmState): Promise<void> {
  const now = isoNow(deps);
  // A suspension for an earlier drain, or of another host, says nothing about where the VM is now.
  await tx.$executeRaw`
    UPDATE "DrainSuspension" SET "releasedAt" = ${now}::timestamptz WHERE "vmId" = ${id} AND "releasedAt" IS NULL AND "drainId" <> ${drain.id}`;
  await tx.$executeRaw`
    INSERT INTO "DrainSuspension" ("drainId", "vmId", "wasSuspended", "askedAt")
    VALUES (${drain.id}, ${id}, ${suspended === true}, ${now}::timestamptz)
    ON CONFLICT ("drainId", "vmId") DO UPDATE SET tries = "DrainSuspension".tries + 1, "askedAt" = EXCLUDED."askedAt",
      "wasSuspended" = EXCLUDED."wasSuspended"`;
}

export const isSuspensionDue = ({ suspensions }: DrainVmState, nowMs: number): boolean =>
  suspensions === null || nowMs >= suspensions.requestedMs + backoffMs * suspensions.tries;
