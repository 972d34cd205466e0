import type { Notification } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, type LedgerDeps, type Transaction } from '../transaction.ts';

/**
 * A record that an operator ends says nothing about the hosts: a domain may still run there, and write its disk. What it takes
 * of a host, and its address, stay fenced until that host has confirmed that nothing of it is left, or is declared lost.
 */
export interface Fence {
  vmId: VmId;
  hostId: HostId;
  generation: number;
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
  /** null: the VM goes on elsewhere, and has its address. */
  address: string | null;
}

/** What a VM, a migration of it that is under way, and its fences take of each host now; with the generation that fences all earlier steps. */
export async function readFencesOf(tx: Transaction, vm: VmId): Promise<Fence[]> {
  return tx.$queryRaw<Fence[]>`
    SELECT v.id AS "vmId", t.host AS "hostId", GREATEST(v.generation, (
        SELECT max(m.generation) FROM "Migration" m WHERE m."vmId" = v.id)) + 1 AS generation,
      sum(t.vcpus)::int AS vcpus, sum(t.memory)::int AS "memoryMiB", sum(t.disk)::int AS "diskMiB", v.address
    FROM "Vm" v, LATERAL (
      SELECT host, vcpus, memory, disk FROM berth_taken(v)
      UNION ALL SELECT m."toId", CASE WHEN m.reserved THEN m.vcpus ELSE 0 END, CASE WHEN m.reserved THEN m."memoryMiB" ELSE 0 END,
        m."diskMiB" FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck') AND (m.reserved OR m."diskMiB" > 0)
      UNION ALL SELECT f."hostId", f.vcpus, f."memoryMiB", f."diskMiB" FROM "Fence" f WHERE f."vmId" = v.id
      UNION ALL SELECT m."fromId", 0, 0, 0 FROM "Migration" m
        WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck') AND m."committedAt" IS NOT NULL
    ) t WHERE v.id = ${vm} GROUP BY v.id, t.host ORDER BY t.host`;
}

/** In the place of those that the VM has. The caller holds the placement lock, and what they take over was freed before. */
export async function replaceFences(tx: Transaction, vm: VmId, fences: readonly Fence[], now: string): Promise<void> {
  await tx.fence.deleteMany({ where: { vmId: vm } });
  for (const fence of fences) await tx.fence.create({ data: { ...fence, createdAt: now } });
}

/** What reconciliation removes from a host: a fenced VM. */
export interface FenceOfVm {
  vmId: VmId;
  generation: number;
  /** The VM goes on elsewhere with disks that are on this host: only its domain is removed. */
  keepsDisks: boolean;
}

/** The fences of a host, except of disks that a domain on another fenced host may still write. */
export async function readFenced(tx: Transaction, host: HostId): Promise<FenceOfVm[]> {
  return tx.$queryRaw<FenceOfVm[]>`
    SELECT f."vmId", f.generation, v.state <> 'removed' AND v."homeId" = f."hostId" AS "keepsDisks"
    FROM "Fence" f JOIN "Vm" v ON v.id = f."vmId"
    WHERE f."hostId" = ${host} AND NOT (v.state = 'removed' AND v."homeId" = f."hostId" AND EXISTS (
      SELECT FROM "Fence" o WHERE o."vmId" = f."vmId" AND o."hostId" <> f."hostId"))
    ORDER BY f."vmId"`;
}

/** The host has confirmed that nothing of the VM is left there. Returns the workflows to notify of what was placed. */
export async function liftFence(deps: LedgerDeps, host: HostId, vm: VmId): Promise<Notification[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    await tx.fence.deleteMany({ where: { hostId: host, vmId: vm } });
    return (await placeWaiting(deps, tx)).notify;
  });
}
