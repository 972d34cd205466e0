import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import { type ChildWorkflowHandle, ParentClosePolicy, startChild } from '@temporalio/workflow';
import type { MigrationRecord } from '../model/migration.ts';
import { promptly, workflowId } from '../model/temporal.ts';
import { migrateVm } from './migrate-vm.ts';

/**
 * Starts the saga of a migration, which goes its own way from here on, unless it was started already: then null. One whose
 * start is lost is found by the housekeeper.
 */
export async function startMigration(
  { id, vmId, generation }: Pick<MigrationRecord, 'id' | 'vmId' | 'generation'>,
  pace: number,
): Promise<ChildWorkflowHandle<typeof migrateVm> | null> {
  try {
    return await startChild(migrateVm, {
      ...promptly,
      workflowId: workflowId.migration(vmId, generation),
      args: [id, pace],
      parentClosePolicy: ParentClosePolicy.ABANDON,
    });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    return null;
  }
}
