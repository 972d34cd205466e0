import type { ChildWorkflowHandle } from '@temporalio/workflow';
import type { MigrationRecord } from '../../model/migration.ts';
import { workflowId } from '../../model/temporal.ts';
import { startDetached } from '../durable/other-workflows.ts';
import { migrateVm } from './migrate-vm.ts';

/** Starts the saga of a migration. @returns null: it runs already. Housekeeping repeats a start that was lost. */
export const startMigration = (
  { id, vmId, generation }: Pick<MigrationRecord, 'id' | 'vmId' | 'generation'>,
  pace: number,
): Promise<ChildWorkflowHandle<typeof migrateVm> | null> =>
  startDetached(migrateVm, workflowId.migration(vmId, generation), [id, pace]);
