import { type ChildWorkflowHandle, startChild } from '@temporalio/workflow';
import type { MigrationRecord } from '../model/migration.ts';
import { promptly, workflowId } from '../model/temporal.ts';
import { migrateVm } from './migrate-vm.ts';
import { ownWay, unlessThere } from './own-way.ts';

/**
 * Starts the saga of a migration, which goes its own way from here on, unless it was started already: then null. One whose
 * start is lost is found by the housekeeper.
 */
export const startMigration = (
  { id, vmId, generation }: Pick<MigrationRecord, 'id' | 'vmId' | 'generation'>,
  pace: number,
): Promise<ChildWorkflowHandle<typeof migrateVm> | null> =>
  unlessThere(
    startChild(migrateVm, { ...ownWay, ...promptly, workflowId: workflowId.migration(vmId, generation), args: [id, pace] }),
  );
