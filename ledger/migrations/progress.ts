import { BerthError } from '../../model/errors.ts';
import { type VmSilentData, vmEventTypes } from '../../model/events.ts';
import {
  type MigratedGuest,
  type MigrationId,
  type MigrationJob,
  migrationEtaS,
  type PhaseEntry,
} from '../../model/migration.ts';
import type { TaskError } from '../../model/task.ts';
import { writeEvent } from '../events/write-event.ts';
import { inTransaction, isoNow, type LedgerDeps } from '../transaction.ts';
import { lockMigration } from './migration-row.ts';

/**
 * Continues a live migration as a cold one, where its request allows that; disk space for its memory is allocated since its
 * admission. A guest that has not converged runs, and so it does afterwards.
 */
export async function fallBackToCold(deps: LedgerDeps, id: MigrationId): Promise<void> {
  const changed = await deps.ledger.$executeRaw`
    UPDATE "Migration" SET mode = 'cold', "pausedBy" = NULL WHERE id = ${id} AND reserved AND (mode = 'cold' OR "orCold")`;
  if (changed === 0) throw new BerthError('conflict', `Migration ${id} is not under way, or may not continue as a cold one`);
}

/** A migration that has ended keeps the progress of its end. */
export async function recordMigrationProgress(
  deps: LedgerDeps,
  id: MigrationId,
  phases: PhaseEntry[],
  job: MigrationJob | null,
): Promise<void> {
  const progress = job === null ? null : JSON.stringify({ ...job, etaS: migrationEtaS(job) });
  await deps.ledger.$executeRaw`
    UPDATE "Migration" SET phases = ${JSON.stringify(phases)}::jsonb, progress = COALESCE(${progress}::jsonb, progress)
    WHERE id = ${id} AND state IN ('running', 'stuck')`;
}

/** The guest was observed after the commit, so this does not change the outcome; a guest that does not answer gets an event. */
export async function recordMigratedGuest(deps: LedgerDeps, id: MigrationId, guest: MigratedGuest): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockMigration(tx, id);
    const changed = await tx.$executeRaw`
      UPDATE "Migration" SET guest = ${guest} WHERE id = ${id} AND "committedAt" IS NOT NULL AND guest IS DISTINCT FROM ${guest}`;
    if (changed === 0 || guest !== 'silent' || row.toId === null) return;
    const { name } = await tx.vm.findUniqueOrThrow({ where: { id: row.vmId }, select: { name: true } });
    const { provider } = await tx.host.findUniqueOrThrow({ where: { id: row.toId }, select: { provider: true } });
    const { vmId: vm, ownerId: owner, taskId: task, toId: host, generation } = row;
    const movedAt = (row.committedAt ?? row.createdAt).toISOString();
    const data: VmSilentData = { vm, name, owner, task, host, provider, generation, migration: id, movedAt, silentAt: now };
    const event = { type: vmEventTypes.silent, subject: vm, owner, time: now, data, n: generation };
    await writeEvent(tx, event, 'reject');
  });
}

/** A stuck migration keeps its capacity on both hosts. One that has ended is not changed. */
export async function markMigrationStuck(deps: LedgerDeps, id: MigrationId, why: TaskError): Promise<void> {
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockMigration(tx, id);
    if (row.state !== 'running' && row.state !== 'stuck') return;
    const problem = JSON.stringify(why);
    await tx.$executeRaw`UPDATE "Migration" SET state = 'stuck', error = ${problem}::jsonb WHERE id = ${id}`;
    await tx.$executeRaw`
      UPDATE "Vm" SET state = 'stuck', problem = ${problem}::jsonb WHERE id = ${row.vmId} AND state IN ('migrating', 'stuck')`;
  });
}
