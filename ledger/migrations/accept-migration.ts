import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { newId } from '../../model/ids.ts';
import { convergenceSeconds, type MigrationId, type MigrationMode } from '../../model/migration.ts';

export interface MigrationRequest {
  vm: string;
  /** null: the site chooses; disks alone go nowhere but to where their VM runs. */
  to: string | null;
  /** Without it, `live`. */
  mode?: MigrationMode;
  /** Without it, the disks stay where they are. */
  moveDisk?: boolean;
  /** A live one whose pre-copy doesn't converge goes on as files; without it, it stays where it was. */
  coldFallback?: boolean;
  /** When a pre-copy that has come to no end is given up. */
  convergeWithinS?: number;
  requestedBy: string;
  reason: string | null;
  nowMs: number;
}

/**
 * Accepts a migration within the caller's transaction: its row alone, which waits for its turn. The VM's row is locked
 * until the commit, so that of two that are asked for at once one is refused.
 *
 * Throws not-found; conflict for a VM that doesn't run or moves already; migration-refused for a target that is none.
 */
export async function acceptMigration(tx: Prisma.TransactionClient, order: MigrationRequest): Promise<MigrationId> {
  const rows = await tx.$queryRaw<
    {
      ownerId: string;
      state: string;
      operation: string | null;
      hostId: string | null;
      homeId: string | null;
      generation: number;
      vcpus: number;
      memoryMiB: number;
    }[]
  >`SELECT "ownerId", state, operation, "hostId", "homeId", generation, vcpus, "memoryMiB" FROM "Vm" WHERE id = ${order.vm} FOR UPDATE`;
  const vm = rows[0];
  if (vm === undefined) throw new BerthError('not-found', `There is no VM ${order.vm}`);
  if (vm.operation !== null) throw new BerthError('conflict', `VM ${order.vm} has yet to ${vm.operation}: move it afterwards`);
  const before = await tx.migration.findMany({
    where: { vmId: order.vm },
    select: { id: true, state: true, generation: true },
    orderBy: { generation: 'desc' },
    take: 1,
  });
  const last = before[0];
  if (last !== undefined && (last.state === 'running' || last.state === 'stuck'))
    throw new BerthError('conflict', `VM ${order.vm} moves already: see migration ${last.id}`);
  const mode = order.mode ?? 'live';
  if (!(vm.state === 'running' || (mode === 'cold' && vm.state === 'suspended')) || vm.hostId === null)
    throw new BerthError(
      'conflict',
      `VM ${order.vm} is ${vm.state}: only one that runs can be moved live, and only that or one that is suspended cold`,
    );
  if (mode === 'disks') refuseDiskMove(order, vm.hostId, vm.homeId);
  else if (order.to === vm.hostId) throw new BerthError('migration-refused', `VM ${order.vm} runs on ${order.to} already`);
  if (order.to !== null && (await tx.host.count({ where: { id: order.to } })) === 0)
    throw new BerthError('migration-refused', `There is no host ${order.to}; GET /v1/hosts lists those that are`);
  const id: MigrationId = newId('migration');
  await tx.migration.create({
    data: {
      id,
      vmId: order.vm,
      ownerId: vm.ownerId,
      state: 'running',
      generation: Math.max(vm.generation, last?.generation ?? 0) + 1,
      mode,
      orCold: mode === 'live' && order.coldFallback === true,
      convergeWithinS: order.convergeWithinS ?? convergenceSeconds.default,
      ...(mode === 'disks'
        ? { moveDisk: true, fromId: vm.homeId ?? vm.hostId, toId: vm.hostId, vcpus: 0, memoryMiB: 0 }
        : {
            moveDisk: order.moveDisk ?? false,
            fromId: vm.hostId,
            toId: order.to,
            vcpus: vm.vcpus,
            memoryMiB: vm.memoryMiB,
          }),
      requestedBy: order.requestedBy,
      reason: order.reason,
      createdAt: new Date(order.nowMs),
    },
  });
  return id;
}

/** Disks alone go from their home to where their VM runs, if that is another host. */
function refuseDiskMove({ vm, to }: MigrationRequest, host: string, home: string | null): void {
  if (home === host) throw new BerthError('migration-refused', `The disks of VM ${vm} are on ${host} already, where it runs`);
  if (to !== null && to !== host)
    throw new BerthError('migration-refused', `The disks of VM ${vm} can follow it to ${host}, where it runs, not to ${to}`);
}
