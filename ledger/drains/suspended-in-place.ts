import type { DrainId } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import { acceptOperation } from '../vms/accept-vm.ts';

/**
 * VMs that are suspended on a host that was emptied: by its drain, or before it where no other host could take them. The
 * ledger refuses to restore them there until the host is opened (docs/decisions/0088).
 */

export interface InPlaceSuspension {
  drain: string;
  vm: VmId;
  /** Its owner suspended it before the drain: the drain does not restore it. */
  wasSuspended: boolean;
}

/** VMs that are suspended for these drains on their hosts. */
export async function readSuspendedInPlace(tx: Transaction, drains: readonly string[]): Promise<InPlaceSuspension[]> {
  return tx.$queryRaw<InPlaceSuspension[]>`
    SELECT s."drainId" AS drain, s."vmId" AS vm, s."wasSuspended" FROM "DrainSuspension" s
    JOIN "Drain" d ON d.id = s."drainId" JOIN "Vm" v ON v.id = s."vmId" AND v."hostId" = d."hostId"
    WHERE s."drainId" = ANY(${drains}) AND s."releasedAt" IS NULL AND v.state = 'suspended' AND v.operation IS NULL
    ORDER BY s."vmId"`;
}

/** VMs whose own workflows have to suspend, or restore, them for one of these drains. */
export async function readInPlaceOperations(
  tx: Transaction,
  drains: readonly string[],
  operation: 'suspend' | 'restore',
): Promise<VmId[]> {
  const rows = await tx.$queryRaw<{ vm: VmId }[]>`
    SELECT s."vmId" AS vm FROM "DrainSuspension" s JOIN "Vm" v ON v.id = s."vmId"
    WHERE s."drainId" = ANY(${drains}) AND v.operation = ${operation}::"VmOperation" AND NOT s."wasSuspended"
      AND (s."releasedAt" IS NULL) = (${operation} = 'suspend')
    ORDER BY s."vmId"`;
  return rows.map(({ vm }) => vm);
}

/** VMs that could not be restored, each with the reason. */
export async function readFailedRestores(tx: Transaction, drain: DrainId): Promise<{ what: VmId; why: string }[]> {
  return tx.$queryRaw<{ what: VmId; why: string }[]>`
    SELECT s."vmId" AS what, 'it could not be restored' || COALESCE(': ' || (v.problem->>'message'), '') AS why
    FROM "DrainSuspension" s JOIN "Vm" v ON v.id = s."vmId"
    WHERE s."drainId" = ${drain} AND s."releasedAt" IS NOT NULL AND NOT s."wasSuspended" AND v.state = 'suspended'
    ORDER BY s."vmId"`;
}

/**
 * Releases the VMs that are suspended for these drains, and requests the restoration of those that the drains suspended.
 * Their capacity is allocated here, so that no other VM is placed in it while their memory is read back; where it is used
 * up already, the VM's workflow fails. The caller holds the placement lock. Returns the VMs whose workflows to notify.
 */
export async function releaseInPlace(tx: Transaction, drains: readonly string[], nowMs: number): Promise<VmId[]> {
  const released = await tx.$queryRaw<{ vm: VmId; wasSuspended: boolean }[]>`
    UPDATE "DrainSuspension" SET "releasedAt" = ${isoOf(nowMs)}::timestamptz
    WHERE "drainId" = ANY(${drains}) AND "releasedAt" IS NULL RETURNING "vmId" AS vm, "wasSuspended"`;
  const requested: VmId[] = [];
  for (const { vm } of released.filter(({ wasSuspended }) => !wasSuspended).sort((a, b) => (a.vm < b.vm ? -1 : 1)))
    if (await tryAcceptOperation(tx, vm, 'restore', nowMs)) {
      requested.push(vm);
      await tx.$executeRaw`
        UPDATE "Vm" v SET state = 'restoring', generation = generation + 1 FROM "Host" h
        WHERE v.id = ${vm} AND v.state = 'suspended' AND h.id = v."hostId"
          AND h."usedVcpus" + v.vcpus <= h.vcpus AND h."usedMemoryMiB" + v."memoryMiB" <= h."memoryMiB"`;
    }
  return requested;
}

/** Requests an operation as the VM's owner could. Returns false where it has no effect or conflicts with what is under way. */
export async function tryAcceptOperation(
  tx: Transaction,
  vm: string,
  operation: 'suspend' | 'restore',
  nowMs: number,
): Promise<boolean> {
  try {
    return await acceptOperation(tx, vm, operation, nowMs);
  } catch (error) {
    if (error instanceof BerthError && error.code === 'conflict') return false;
    throw error;
  }
}
