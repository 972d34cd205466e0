import type { Prisma } from '../../generated/prisma/client.ts';
import type { DrainId } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import { acceptOperation } from '../vms/accept-vm.ts';

/**
 * VMs that lie suspended on a host that was emptied: for its drain, or because they were suspended before and no other
 * host could take them. Until the host is opened the ledger lets nobody restore them there (docs/decisions/0088).
 */

type Transaction = Prisma.TransactionClient;

export interface InPlaceSuspension {
  drain: string;
  vm: VmId;
  /** By its owner, before: it stays so. */
  wasSuspended: boolean;
}

/** Who lies on the hosts of these drains, for them. */
export async function readSuspendedInPlace(tx: Transaction, drains: readonly string[]): Promise<InPlaceSuspension[]> {
  return tx.$queryRaw<InPlaceSuspension[]>`
    SELECT s."drainId" AS drain, s."vmId" AS vm, s."wasSuspended" FROM "DrainSuspension" s
    JOIN "Drain" d ON d.id = s."drainId" JOIN "Vm" v ON v.id = s."vmId" AND v."hostId" = d."hostId"
    WHERE s."drainId" = ANY(${drains}) AND s."releasedAt" IS NULL AND v.state = 'suspended' AND v.operation IS NULL
    ORDER BY s."vmId"`;
}

/** Its own workflow is at it: a VM's suspension or restoration for one of these drains, whichever is asked about. */
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

/** Restored in vain, which each says why. */
export async function readFailedRestores(tx: Transaction, drain: DrainId): Promise<{ what: VmId; why: string }[]> {
  return tx.$queryRaw<{ what: VmId; why: string }[]>`
    SELECT s."vmId" AS what, 'it could not be restored' || COALESCE(': ' || (v.problem->>'message'), '') AS why
    FROM "DrainSuspension" s JOIN "Vm" v ON v.id = s."vmId"
    WHERE s."drainId" = ${drain} AND s."releasedAt" IS NOT NULL AND NOT s."wasSuspended" AND v.state = 'suspended'
    ORDER BY s."vmId"`;
}

/**
 * What lies there may run again, and what was suspended for these drains is asked to. Its room is taken here, so that
 * nobody is placed in it while it is read back; where there is none any more, its workflow will say so. Under the
 * placement lock. Returns whose workflows are to be told.
 */
export async function releaseInPlace(tx: Transaction, drains: readonly string[], nowMs: number): Promise<VmId[]> {
  const released = await tx.$queryRaw<{ vm: VmId; wasSuspended: boolean }[]>`
    UPDATE "DrainSuspension" SET "releasedAt" = ${new Date(nowMs).toISOString()}::timestamptz
    WHERE "drainId" = ANY(${drains}) AND "releasedAt" IS NULL RETURNING "vmId" AS vm, "wasSuspended"`;
  const asked: VmId[] = [];
  for (const { vm } of released.filter(({ wasSuspended }) => !wasSuspended).sort((a, b) => (a.vm < b.vm ? -1 : 1)))
    if (await tryAcceptOperation(tx, vm, 'restore', nowMs)) {
      asked.push(vm);
      await tx.$executeRaw`
        UPDATE "Vm" v SET state = 'restoring', generation = generation + 1 FROM "Host" h
        WHERE v.id = ${vm} AND v.state = 'suspended' AND h.id = v."hostId"
          AND h."usedVcpus" + v.vcpus <= h.vcpus AND h."usedMemoryMiB" + v."memoryMiB" <= h."memoryMiB"`;
    }
  return asked;
}

/** As if its owner had asked. false: it is so already, was removed, or its owner or an operator is busy with it. */
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
