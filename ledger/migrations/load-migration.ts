import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import type { MigrationId, MigrationMode, MigrationRecord, MigrationState } from '../../model/migration.ts';
import type { TaskError } from '../../model/task.ts';
import { batch, secondsAgo } from '../housekeeping.ts';
import { oneOrNotFound } from '../rows.ts';
import type { LedgerDeps } from '../transaction.ts';

/** Throws not-found. */
export async function loadMigration(deps: LedgerDeps, id: MigrationId): Promise<MigrationRecord & { task: TaskId | null }> {
  const row = await deps.ledger.migration.findUnique({ where: { id }, include: { vm: { select: { taskId: true } } } });
  const found = oneOrNotFound(row === null ? [] : [row], `migration ${id}`);
  return { ...toRecord(found), task: found.vm.taskId as TaskId | null };
}

interface StoredMigration {
  id: string;
  vmId: string;
  ownerId: string;
  generation: number;
  state: MigrationState;
  fromId: string;
  toId: string | null;
  mode: string;
  moveDisk: boolean;
  orCold: boolean;
  convergeWithinS: number;
  abortRequestedAt: Date | null;
  reserved: boolean;
  committedAt: Date | null;
  error: unknown;
}

function toRecord(row: StoredMigration): MigrationRecord {
  return {
    id: row.id as MigrationId,
    vmId: row.vmId as VmId,
    owner: row.ownerId,
    generation: row.generation,
    state: row.state,
    from: row.fromId as HostId,
    to: row.toId as HostId | null,
    mode: row.mode as MigrationMode,
    moveDisk: row.moveDisk,
    coldFallback: row.orCold,
    convergeWithinS: row.convergeWithinS,
    abortRequested: row.abortRequestedAt !== null,
    begun: row.reserved || row.committedAt !== null,
    committed: row.committedAt !== null,
    error: row.error as TaskError | null,
  };
}

/** Accepted migrations whose workflow was never started, because the API died first; the oldest first. */
export async function listMigrationsWithoutWorkflow(deps: LedgerDeps, olderThanS: number): Promise<MigrationRecord[]> {
  const rows = await deps.ledger.migration.findMany({
    where: {
      state: 'running',
      reserved: false,
      committedAt: null,
      waiting: null,
      createdAt: { lt: secondsAgo(deps, olderThanS) },
    },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    take: batch,
  });
  return rows.map(toRecord);
}
