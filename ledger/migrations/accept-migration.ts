import type { DrainMove } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import { newId, type VmId } from '../../model/ids.ts';
import { convergenceSeconds, type MigrationId, type MigrationMode } from '../../model/migration.ts';
import { hasEnded, type VmState } from '../../model/states.ts';
import type { PausedBy } from '../../model/vm.ts';
import type { Transaction } from '../transaction.ts';

export interface MigrationRequest {
  vm: string;
  /** null: the site chooses. Disks alone can only follow their VM to the host where it runs. */
  to: string | null;
  /** Default: `live`. */
  mode?: MigrationMode;
  /** Default: the disks remain on their host. */
  moveDisk?: boolean;
  /** A live migration whose pre-copy does not converge continues as a cold one, or is rolled back. Required, so that no caller loses it. */
  coldFallback: boolean;
  /** Time limit of the pre-copy. */
  convergeWithinS?: number;
  requestedBy: string;
  reason: string | null;
  nowMs: number;
}

/** The states from which a VM, or its disks alone, can move. */
const movableStates: Record<MigrationMode, readonly VmState[]> = {
  live: ['running', 'paused'],
  cold: ['running', 'suspended', 'stopped', 'crashed'],
  disks: ['running', 'paused'],
};

export const isMovable = (mode: MigrationMode, state: VmState): boolean => movableStates[mode].includes(state);

/** QEMU has no migration of a machine that has put itself to sleep. */
export const sleepingGuest = 'sleeps: its guest suspended itself to memory. Resume it, and move it then';

/**
 * Accepts a migration within the caller's transaction: inserts its row, which waits for admission. The VM's row is locked
 * until the commit, so that one of two concurrent requests is refused.
 *
 * Throws not-found; conflict for a VM whose state does not allow it, or that migrates already; migration-refused for an unknown target.
 */
export async function acceptMigration(tx: Transaction, request: MigrationRequest): Promise<MigrationId> {
  const rows = await tx.$queryRaw<
    {
      ownerId: string;
      state: VmState;
      pausedBy: PausedBy | null;
      operation: string | null;
      hostId: string | null;
      homeId: string | null;
      generation: number;
      vcpus: number;
      memoryMiB: number;
    }[]
  >`SELECT "ownerId", state, "pausedBy", operation, "hostId", "homeId", generation, vcpus, "memoryMiB" FROM "Vm" WHERE id = ${request.vm} FOR UPDATE`;
  const vm = rows[0];
  if (vm === undefined) throw new BerthError('not-found', `There is no VM ${request.vm}`);
  if (vm.operation !== null) throw new BerthError('conflict', `VM ${request.vm} has yet to ${vm.operation}: move it afterwards`);
  const newest = await tx.migration.findMany({
    where: { vmId: request.vm },
    select: { id: true, state: true, generation: true },
    orderBy: { generation: 'desc' },
    take: 1,
  });
  const last = newest[0];
  if (last !== undefined && (last.state === 'running' || last.state === 'stuck'))
    throw new BerthError('conflict', `VM ${request.vm} moves already: see migration ${last.id}`);
  const fence = await tx.fence.findFirst({ where: { vmId: request.vm }, select: { hostId: true } });
  if (fence !== null)
    throw new BerthError(
      'conflict',
      `VM ${request.vm} left ${fence.hostId} by force, which has yet to confirm that: move it afterwards`,
    );
  const mode = request.mode ?? 'live';
  const movable = isMovable(mode, vm.state);
  if (!movable || vm.hostId === null)
    throw new BerthError(
      'conflict',
      `VM ${request.vm} is ${vm.state}: one that runs or is paused can be moved live, one that runs, is suspended or has ended cold`,
    );
  if (mode === 'live' && vm.pausedBy === 'guest') throw new BerthError('conflict', `VM ${request.vm} ${sleepingGuest}`);
  if (hasEnded(vm.state) && request.moveDisk !== true)
    throw new BerthError(
      'migration-refused',
      `VM ${request.vm} is ${vm.state}, and has nothing but its disks: move it with moveDisk`,
    );
  if (mode === 'disks') refuseDiskMove(request, vm.hostId, vm.homeId);
  else if (request.to === vm.hostId) throw new BerthError('migration-refused', `VM ${request.vm} runs on ${request.to} already`);
  if (request.to !== null && (await tx.host.count({ where: { id: request.to, removedAt: null } })) === 0)
    throw new BerthError('migration-refused', `There is no host ${request.to}; GET /v1/hosts lists those that are`);
  const id: MigrationId = newId('migration');
  await tx.migration.create({
    data: {
      id,
      vmId: request.vm,
      ownerId: vm.ownerId,
      state: 'running',
      generation: Math.max(vm.generation, last?.generation ?? 0) + 1,
      mode,
      // A paused guest writes nothing: its pre-copy converges.
      orCold: mode === 'live' && vm.state === 'running' && request.coldFallback,
      convergeWithinS: request.convergeWithinS ?? convergenceSeconds.default,
      ...(mode === 'disks'
        ? { moveDisk: true, fromId: vm.homeId ?? vm.hostId, toId: vm.hostId, vcpus: 0, memoryMiB: 0 }
        : {
            moveDisk: request.moveDisk ?? false,
            fromId: vm.hostId,
            toId: request.to,
            vcpus: vm.vcpus,
            memoryMiB: vm.memoryMiB,
          }),
      requestedBy: request.requestedBy,
      reason: request.reason,
      createdAt: new Date(request.nowMs),
    },
  });
  return id;
}

/** Accepts a migration, or returns null where the VM cannot migrate at this moment: its owner or an operator was faster. */
export async function tryAcceptMigration(tx: Transaction, request: MigrationRequest): Promise<DrainMove | null> {
  try {
    const migration = await acceptMigration(tx, request);
    const { generation } = await tx.migration.findUniqueOrThrow({ where: { id: migration }, select: { generation: true } });
    return { migration, vm: request.vm as VmId, generation };
  } catch (error) {
    if (error instanceof BerthError && (error.code === 'conflict' || error.code === 'migration-refused')) return null;
    throw error;
  }
}

/** Disks alone migrate from their home to the host where their VM runs. */
function refuseDiskMove({ vm, to }: MigrationRequest, host: string, home: string | null): void {
  if (home === host) throw new BerthError('migration-refused', `The disks of VM ${vm} are on ${host} already, where it runs`);
  if (to !== null && to !== host)
    throw new BerthError('migration-refused', `The disks of VM ${vm} can follow it to ${host}, where it runs, not to ${to}`);
}
