import { type ChildWorkflowHandle, startChild } from '@temporalio/workflow';
import type { MigrationRecord } from '../../model/migration.ts';
import { shortWorkflowTaskTimeout, workflowId } from '../../model/temporal.ts';
import { detachedChild, startIfAbsent } from '../durable/detached-child.ts';
import { migrateVm } from './migrate-vm.ts';

/**
 * Starts the saga of a migration, which goes its own way from here on, unless it was started already: then null. One whose
 * start is lost is found by the housekeeper.
 */
export const startMigration = (
  { id, vmId, generation }: Pick<MigrationRecord, 'id' | 'vmId' | 'generation'>,
  pace: number,
): Promise<ChildWorkflowHandle<typeof migrateVm> | null> =>
  startIfAbsent(
    startChild(migrateVm, {
      ...detachedChild,
      ...shortWorkflowTaskTimeout,
      workflowId: workflowId.migration(vmId, generation),
      args: [id, pace],
    }),
  );
