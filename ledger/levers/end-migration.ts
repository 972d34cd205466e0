import { BerthError } from '../../model/errors.ts';
import { forceEndedTypes } from '../../model/events.ts';
import type { HostId } from '../../model/ids.ts';
import type { MigrationHost, MigrationId } from '../../model/migration.ts';
import { workflowId } from '../../model/temporal.ts';
import { writeEvent } from '../events/write-event.ts';
import { keepVmAtSource, moveVmToTarget, writeMigratedEvent, writeMigrationEnd } from '../migrations/end-migration.ts';
import { lockMigration, type MigrationRow } from '../migrations/migration-row.ts';
import type { Transaction } from '../transaction.ts';
import type { RecordEnd } from './end-vm.ts';
import { type Fence, replaceFences } from './fences.ts';
import { requestWorkflowEnd } from './workflow-ends.ts';

/**
 * Ends a migration's record within the caller's transaction, with the VM where the operator has found it; the other host is
 * fenced. The caller holds the placement lock. Throws conflict unless the migration is stuck or its abort was requested, and for
 * one whose VM has arrived: its disks are still on the way, and only their hosts know how far.
 * @returns the fenced hosts; null: it was over already
 */
export async function endMigration(
  tx: Transaction,
  id: MigrationId,
  vmAt: MigrationHost,
  ending: RecordEnd & { by: string },
): Promise<HostId[] | null> {
  const row = await lockMigration(tx, id);
  if (row.state === 'succeeded' || row.state === 'rolledBack') return null;
  refuseUnlessAmbiguous(row, vmAt);
  const { error, now } = ending;
  const phases = await tx.migration.findUniqueOrThrow({ where: { id }, select: { phases: true, bytes: true } });
  const result = { downtimeMs: null, bytes: Number(phases.bytes), phases: phases.phases as never };
  const fences = row.reserved ? [fenceOf(row, vmAt === 'source' ? row.toId! : row.fromId)] : [];
  if (vmAt === 'target') {
    await writeMigrationEnd(tx, row, 'succeeded', { ...result, error }, now);
    await moveVmToTarget(tx, row, now);
    await writeMigratedEvent(tx, row, result, now);
  } else {
    await writeMigrationEnd(tx, row, 'rolledBack', { ...result, error }, now);
    if (row.reserved) await keepVmAtSource(tx, row, false);
  }
  await replaceFences(tx, row.vmId, fences, now);
  const hosts = fences.map(({ hostId }) => hostId);
  const data = { migration: id, vm: row.vmId, owner: row.ownerId, vmAt, fenced: hosts, error, by: ending.by, at: now };
  await writeEvent(tx, { type: forceEndedTypes.migration, subject: id, owner: row.ownerId, time: now, data }, 'reject');
  await requestWorkflowEnd(tx, workflowId.migration(row.vmId, row.generation), error.message, now);
  return hosts;
}

function refuseUnlessAmbiguous(row: MigrationRow, vmAt: MigrationHost): void {
  const { abortRequestedAt } = row;
  if (row.committedAt !== null)
    throw new BerthError(
      'conflict',
      `VM ${row.vmId} has arrived, and its disks follow it: bring ${row.fromId} and ${row.toId} back, or force the end of the VM`,
    );
  if (row.state !== 'stuck' && abortRequestedAt === null)
    throw new BerthError(
      'conflict',
      `Migration ${row.id} runs: abort it (DELETE), and force its end only where that does not help`,
    );
  if (vmAt === 'target' && !row.reserved)
    throw new BerthError('conflict', `Migration ${row.id} has not begun: its VM is at its source`);
}

/** What the migration has reserved at its target, or the VM has taken at its source. */
function fenceOf(row: MigrationRow, hostId: HostId): Fence {
  const { vmId, generation, vcpus, memoryMiB, diskMiB } = row;
  const fence = { vmId, hostId, generation, address: null };
  if (hostId === row.toId) return { ...fence, vcpus, memoryMiB, diskMiB };
  const disksMoved = row.mode === 'cold' && row.moveDisk && row.homeId === hostId;
  const files = (row.asleep ? memoryMiB : 0) + (disksMoved ? row.vmDiskMiB : 0);
  return { ...fence, vcpus: row.asleep ? 0 : vcpus, memoryMiB: row.asleep ? 0 : memoryMiB, diskMiB: files };
}
