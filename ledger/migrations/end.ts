import type { DiskMoveResult, MigrationFailure, MigrationResult, Notification } from '../../contracts/ledger.ts';
import { BerthError } from '../../model/errors.ts';
import { eventId, VmMigratedData, type VmRehomedData, vmEventTypes, vmMigratedType } from '../../model/events.ts';
import type { MigrationId } from '../../model/migration.ts';
import { writeEvent } from '../events/write.ts';
import { lockPlacement, placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { recordDiskMoveTiming, recordMigrationTiming } from './measurements.ts';
import { lockMigration, type MigrationRow } from './reserve.ts';

/** The fact for outsiders, in the transaction that makes it true. */
async function writeMigratedEvent(tx: Transaction, row: MigrationRow, result: MigrationResult, now: string): Promise<void> {
  const hosts = await tx.host.findMany({ where: { id: { in: [row.fromId, row.toId!] } }, select: { id: true, provider: true } });
  const hostFields = (id: string) => ({ host: id, provider: hosts.find((host) => host.id === id)?.provider ?? '' });
  const startedAt = (row.startedAt ?? row.createdAt).toISOString();
  const data = VmMigratedData.parse({
    vm: row.vmId,
    owner: row.ownerId,
    task: row.taskId,
    migration: row.id,
    mode: row.mode,
    from: hostFields(row.fromId),
    to: hostFields(row.toId!),
    // The disks of a cold one came along, where they were to.
    home: row.mode === 'cold' && row.moveDisk ? row.toId : row.homeId,
    generation: row.generation,
    requestedBy: row.requestedBy,
    reason: row.reason,
    startedAt,
    migratedAt: now,
    seconds: Math.max(0, Date.parse(now) - Date.parse(startedAt)) / 1000,
    downtimeMs: result.downtimeMs,
    bytes: result.bytes,
  });
  await tx.$executeRaw`
    INSERT INTO "Event" (id, type, subject, "ownerId", time, data)
    VALUES (${`${eventId(row.vmId, vmMigratedType)}/${row.generation}`}, ${vmMigratedType}, ${row.vmId}, ${row.ownerId},
            ${now}::timestamptz, ${JSON.stringify(data)}::jsonb)`;
}

/** Billing follows where a VM runs, and that was told; this says whose disk it takes from now on. */
async function writeRehomedEvent(tx: Transaction, row: MigrationRow, end: DiskMoveResult, now: string): Promise<void> {
  const hosts = await tx.host.findMany({ where: { id: { in: [row.homeId!, row.toId!] } }, select: { id: true, provider: true } });
  const hostFields = (id: string) => ({ host: id, provider: hosts.find((host) => host.id === id)?.provider ?? '' });
  const { name } = await tx.vm.findUniqueOrThrow({ where: { id: row.vmId }, select: { name: true } });
  const phase = end.phases.find((one) => one.name === 'moveDisk');
  const data: VmRehomedData = {
    vm: row.vmId,
    name,
    owner: row.ownerId,
    task: row.taskId,
    ...hostFields(row.toId!),
    generation: row.generation,
    migration: row.id,
    from: hostFields(row.homeId!),
    home: row.toId!,
    seconds: phase?.seconds ?? 0,
    bytes: end.bytes,
    rehomedAt: now,
  };
  const fact = { type: vmEventTypes.rehomed, subject: row.vmId, owner: row.ownerId, time: now, data };
  await writeEvent(tx, fact, row.generation);
}

async function writeMigrationEnd(
  tx: Transaction,
  row: MigrationRow,
  state: 'running' | 'succeeded' | 'rolledBack',
  end: MigrationResult & { error: MigrationFailure['error'] | null },
  now: string,
): Promise<void> {
  const error = end.error === null ? null : JSON.stringify(end.error);
  await tx.$executeRaw`
    UPDATE "Migration" SET state = CASE WHEN ${state} = 'running' THEN state ELSE ${state}::"MigrationState" END, reserved = false,
      waiting = NULL, error = ${error}::jsonb,
      phases = ${JSON.stringify(end.phases)}::jsonb, "downtimeMs" = ${end.downtimeMs}::int, bytes = ${end.bytes}::bigint,
      "diskMiB" = CASE WHEN ${state} = 'running' THEN "diskMiB" ELSE 0 END,
      "finishedAt" = CASE WHEN ${state} <> 'running' THEN ${now}::timestamptz END,
      "committedAt" = CASE WHEN ${state} <> 'rolledBack' THEN ${now}::timestamptz END
    WHERE id = ${row.id}`;
}

/**
 * The VM is at the target, and nowhere else: its row follows. A VM whose removal has begun meanwhile goes on being
 * removed, from there. Where its disks are to follow, the migration stays under way until they have. Throws conflict when
 * it ended otherwise.
 */
export async function commitMigration(deps: LedgerDeps, id: MigrationId, result: MigrationResult): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockMigration(tx, id);
    const isNew = row.committedAt === null;
    if (isNew && !row.reserved) throw new BerthError('conflict', `Migration ${id} is ${row.state}; it cannot be committed`);
    if (isNew) {
      const disksFollow = row.mode === 'live' && row.moveDisk && row.homeId !== row.toId;
      await writeMigrationEnd(tx, row, disksFollow ? 'running' : 'succeeded', { ...result, error: null }, now);
      await recordMigrationTiming(tx, row, result, now);
      // The disks of a cold one came along.
      if (row.mode === 'cold' && row.moveDisk)
        await tx.$executeRaw`UPDATE "Vm" SET "homeId" = ${row.toId} WHERE id = ${row.vmId}`;
      await tx.$executeRaw`
        INSERT INTO "VmStay" ("vmId", generation, "hostId", since, until)
        SELECT id, ${row.vmGeneration}, ${row.fromId}, "resumedAt", ${now}::timestamptz FROM "Vm" WHERE id = ${row.vmId} AND NOT asleep`;
      await tx.$executeRaw`
        UPDATE "Vm" SET "hostId" = ${row.toId}, generation = ${row.generation}, problem = NULL, "resumedAt" = NULL,
          state = CASE WHEN state NOT IN ('migrating', 'stuck') THEN state WHEN asleep THEN 'suspended' ELSE 'running' END
        WHERE id = ${row.vmId}`;
    }
    const { notify: wake } = await placeWaiting(deps, tx);
    if (isNew) await writeMigratedEvent(tx, row, result, now);
    return wake;
  });
}

/**
 * The VM is where it was. Its generation is the attempt's all the same, where one had begun: what that attempt has left
 * under way anywhere is of the past. Throws conflict when the migration was committed.
 */
export async function rollBackMigration(deps: LedgerDeps, id: MigrationId, failure: MigrationFailure): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockMigration(tx, id);
    if (row.committedAt !== null) throw new BerthError('conflict', `Migration ${id} was committed; it cannot be rolled back`);
    if (row.state !== 'rolledBack') {
      await writeMigrationEnd(tx, row, 'rolledBack', failure, now);
      if (row.reserved)
        await tx.$executeRaw`
          UPDATE "Vm" SET generation = ${row.generation}, problem = NULL,
            state = CASE WHEN state NOT IN ('migrating', 'stuck') THEN state WHEN ${failure.lost} THEN 'stopped'
              WHEN asleep THEN 'suspended' ELSE 'running' END
          WHERE id = ${row.vmId}`;
    }
    return (await placeWaiting(deps, tx)).notify;
  });
}

/**
 * The disks of a VM that moved have followed it, and its home is the target; or they stay where they were, and the error
 * says why. Either way the migration is over. Throws conflict when it was not committed.
 */
export async function finishDiskMove(deps: LedgerDeps, id: MigrationId, end: DiskMoveResult): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockMigration(tx, id);
    if (row.committedAt === null && row.state !== 'rolledBack')
      throw new BerthError('conflict', `Migration ${id} is ${row.state}: its VM has to arrive before its disks do`);
    if (row.state === 'running' || row.state === 'stuck') {
      const error = end.error === null ? null : JSON.stringify(end.error);
      // Where the VM itself has moved, that has succeeded, whatever became of its disks.
      const isUndone = row.mode === 'disks' && end.error !== null;
      // The room that was held for them is theirs now.
      await tx.$executeRaw`
        UPDATE "Migration" SET state = ${isUndone ? 'rolledBack' : 'succeeded'}::"MigrationState", "diskMiB" = 0, error = ${error}::jsonb,
          phases = ${JSON.stringify(end.phases)}::jsonb, bytes = CASE WHEN mode = 'disks' THEN ${end.bytes}::bigint ELSE bytes END, "finishedAt" = ${now}::timestamptz,
          "committedAt" = CASE WHEN ${isUndone} THEN NULL ELSE "committedAt" END
        WHERE id = ${row.id}`;
      if (end.error === null) {
        await recordDiskMoveTiming(tx, row, end.phases, now);
        await writeRehomedEvent(tx, row, end, now);
        await tx.$executeRaw`UPDATE "Vm" SET "homeId" = ${row.toId} WHERE id = ${row.vmId}`;
      }
      // The placement has changed, or was to: what this attempt has left under way anywhere is of the past.
      if (row.mode === 'disks')
        await tx.$executeRaw`UPDATE "Vm" SET generation = GREATEST(generation, ${row.generation}) WHERE id = ${row.vmId}`;
    }
    return (await placeWaiting(deps, tx)).notify;
  });
}
