import type { DiskMoveResult, MigrationFailure, MigrationResult, Notification } from '../../contracts/ledger.ts';
import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { type VmMigratedData, type VmRehomedData, vmEventTypes, vmMigratedType } from '../../model/events.ts';
import type { MigrationId } from '../../model/migration.ts';
import type { TaskError } from '../../model/task.ts';
import { writeEvent } from '../events/write-event.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { placeWaiting } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { writeDomainEnd } from '../vms/domains/end-domain.ts';
import { endResidency } from '../vms/residencies.ts';
import { lockVm } from '../vms/vm-row.ts';
import { recordDiskMoveTiming, recordMigrationTiming } from './measurements.ts';
import { lockMigration, type MigrationRow } from './migration-row.ts';

/** Writes `berth.vm.migrated`, in the transaction that commits the migration. */
export async function writeMigratedEvent(
  tx: Transaction,
  row: MigrationRow,
  result: MigrationResult,
  now: string,
): Promise<void> {
  const hostFields = await readHostFields(tx, [row.fromId, row.toId!]);
  const startedAt = (row.startedAt ?? row.createdAt).toISOString();
  const data: VmMigratedData = {
    vm: row.vmId,
    owner: row.ownerId,
    task: row.taskId,
    migration: row.id,
    mode: row.mode,
    from: hostFields(row.fromId),
    to: hostFields(row.toId!),
    // A cold migration copies the disks as well, where that was requested.
    home: (row.mode === 'cold' && row.moveDisk ? row.toId : row.homeId)!,
    generation: row.generation,
    requestedBy: row.requestedBy,
    reason: row.reason,
    startedAt,
    migratedAt: now,
    seconds: Math.max(0, Date.parse(now) - Date.parse(startedAt)) / 1000,
    downtimeMs: result.downtimeMs,
    bytes: result.bytes,
  };
  const event = { type: vmMigratedType, subject: row.vmId, owner: row.ownerId, time: now, data, n: row.generation } as const;
  await writeEvent(tx, event, 'reject');
}

/** Returns the event fields of each of these hosts. */
async function readHostFields(tx: Transaction, ids: string[]): Promise<(id: string) => { host: string; provider: string }> {
  const hosts = await tx.host.findMany({ where: { id: { in: ids } }, select: { id: true, provider: true } });
  return (id) => ({ host: id, provider: hosts.find((host) => host.id === id)?.provider ?? '' });
}

/** `berth.vm.migrated` has told where the VM runs, and is billed; this event tells which host's disk it uses from now on. */
async function writeRehomedEvent(tx: Transaction, row: MigrationRow, end: DiskMoveResult, now: string): Promise<void> {
  const hostFields = await readHostFields(tx, [row.homeId!, row.toId!]);
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
  const event = { type: vmEventTypes.rehomed, subject: row.vmId, owner: row.ownerId, time: now, data, n: row.generation };
  await writeEvent(tx, event, 'reject');
}

export async function writeMigrationEnd(
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
 * The VM is at the target, and nowhere else: updates its row. A VM whose removal has begun meanwhile is removed from
 * there. Where its disks have to follow, the migration remains under way until they have. Throws conflict when the
 * migration was rolled back.
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
      await moveVmToTarget(tx, row, now);
    }
    const { notify } = await placeWaiting(deps, tx);
    if (isNew) await writeMigratedEvent(tx, row, result, now);
    return notify;
  });
}

/** What a VM is after its migration: as it was before it. Of a row that is in no such state a trigger drops `pausedBy`. */
const stateAfter = ({ pausedBy, endedAs }: MigrationRow): Prisma.Sql =>
  Prisma.sql`COALESCE(${endedAs}::"VmState",
    CASE WHEN asleep THEN 'suspended'::"VmState" WHEN ${pausedBy !== null} THEN 'paused' ELSE 'running' END)`;

/** An I/O error that paused it is still one, and so is what ended it. */
const problemAfter = ({ pausedBy, endedAs }: MigrationRow): Prisma.Sql =>
  Prisma.sql`CASE WHEN state = 'migrating' AND ${pausedBy === 'ioError' || endedAs !== null} THEN problem END`;

/** Without a domain it takes no processors; its disks are at the target's provider from now on. */
async function writeEmptyResidency(tx: Transaction, { vmId, generation, toId }: MigrationRow, now: string): Promise<void> {
  await tx.$executeRaw`
    INSERT INTO "VmStay" ("vmId", generation, "hostId", since, until)
    SELECT id, ${generation}, ${toId}, ${now}::timestamptz, ${now}::timestamptz FROM "Vm" WHERE id = ${vmId} AND "startedAt" IS NOT NULL`;
}

/** The VM's row names the target from now on; its usage at the source ends. */
export async function moveVmToTarget(tx: Transaction, row: MigrationRow, now: string): Promise<void> {
  if (row.mode === 'cold' && row.moveDisk) await tx.$executeRaw`UPDATE "Vm" SET "homeId" = ${row.toId} WHERE id = ${row.vmId}`;
  if (!row.asleep && row.endedAs === null)
    await endResidency(tx, { id: row.vmId, generation: row.vmGeneration, hostId: row.fromId }, now);
  else await writeEmptyResidency(tx, row, now);
  await tx.$executeRaw`
    UPDATE "Vm" SET "hostId" = ${row.toId}, generation = ${row.generation}, problem = ${problemAfter(row)}, "resumedAt" = NULL,
      state = CASE WHEN state NOT IN ('migrating', 'stuck') THEN state ELSE ${stateAfter(row)} END,
      "pausedBy" = ${row.pausedBy}::"PausedBy"
    WHERE id = ${row.vmId}`;
}

/** The VM's row names the source, as before, with the attempt's generation. A lost one is stopped. */
export async function keepVmAtSource(tx: Transaction, row: MigrationRow, lost: boolean): Promise<void> {
  await tx.$executeRaw`
    UPDATE "Vm" SET generation = ${row.generation}, problem = ${problemAfter(row)},
      state = CASE WHEN state NOT IN ('migrating', 'stuck') THEN state WHEN ${lost} THEN 'stopped' ELSE ${stateAfter(row)} END,
      "pausedBy" = ${row.pausedBy}::"PausedBy"
    WHERE id = ${row.vmId}`;
}

/** The usage of a standalone VM that ended while it migrated ends with it, and its owner is told. */
async function writeLostVm(tx: Transaction, { vmId, vmState }: MigrationRow, error: TaskError, now: string): Promise<void> {
  const vm = await lockVm(tx, vmId);
  if (vm.taskId !== null || vm.asleep || (vmState !== 'migrating' && vmState !== 'stuck') || vm.state !== 'stopped') return;
  await writeDomainEnd(tx, vm, { error, endedAt: now, now });
}

/**
 * The VM is where it was. It still gets the attempt's generation where the attempt had begun, which fences everything
 * that the attempt has left under way. Throws conflict when the migration was committed.
 */
export async function rollBackMigration(deps: LedgerDeps, id: MigrationId, failure: MigrationFailure): Promise<Notification[]> {
  const now = isoNow(deps);
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockMigration(tx, id);
    if (row.committedAt !== null) throw new BerthError('conflict', `Migration ${id} was committed; it cannot be rolled back`);
    if (row.state !== 'rolledBack') {
      await writeMigrationEnd(tx, row, 'rolledBack', failure, now);
      if (row.reserved) await keepVmAtSource(tx, row, failure.lost);
      if (row.reserved && failure.lost) await writeLostVm(tx, row, failure.error, now);
    }
    return (await placeWaiting(deps, tx)).notify;
  });
}

/**
 * Ends a migration after its disks: they have followed the VM, and its home is the target; or they remain where they
 * were, and the error says why. Throws conflict when the migration was not committed.
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
      // A migration that has moved the VM itself has succeeded, even where its disks could not follow.
      const isUndone = row.mode === 'disks' && end.error !== null;
      // The VM's home accounts for the disks from now on, so the allocation for them ends.
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
      // Fences everything that this attempt has left under way.
      if (row.mode === 'disks')
        await tx.$executeRaw`UPDATE "Vm" SET generation = GREATEST(generation, ${row.generation}) WHERE id = ${row.vmId}`;
    }
    return (await placeWaiting(deps, tx)).notify;
  });
}
