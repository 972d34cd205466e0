import type { MigrationAdmission, MigrationRoute } from '../../contracts/ledger.ts';
import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import { type VmSilentData, vmEventTypes } from '../../model/events.ts';
import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import type {
  MigratedGuest,
  MigrationId,
  MigrationJob,
  MigrationMode,
  MigrationRecord,
  MigrationState,
  PhaseEntry,
} from '../../model/migration.ts';
import { migrationEtaS } from '../../model/migration.ts';
import type { TaskState, VmState } from '../../model/states.ts';
import type { TaskError } from '../../model/task.ts';
import { chooseTarget, diskNeededMiB, type TargetHost } from '../../scheduler/migration-target.ts';
import { writeEvent } from '../events/write.ts';
import { lockPlacement } from '../placement/place-queue.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { readPlacedVm, vmSpecs } from '../vms/vm-specs.ts';

/** A migration with what its decisions need of the VM. */
export interface MigrationRow {
  id: MigrationId;
  vmId: VmId;
  ownerId: string;
  generation: number;
  state: MigrationState;
  fromId: HostId;
  toId: HostId | null;
  reserved: boolean;
  mode: MigrationMode;
  requestedBy: string;
  reason: string | null;
  createdAt: Date;
  startedAt: Date | null;
  vcpus: number;
  memoryMiB: number;
  moveDisk: boolean;
  orCold: boolean;
  /** Room that is held at the target for disks that are to follow. */
  diskMiB: number;
  /** What the VM's disks may take. */
  vmDiskMiB: number;
  committedAt: Date | null;
  vmState: VmState;
  asleep: boolean;
  vmGeneration: number;
  hostId: HostId | null;
  homeId: HostId | null;
  taskId: TaskId | null;
  taskState: TaskState | null;
}

/** Reads a migration and its VM, both locked. Throws not-found. */
export async function lockMigration(tx: Transaction, id: MigrationId): Promise<MigrationRow> {
  const rows = await tx.$queryRaw<MigrationRow[]>`
    SELECT m.*, v.state AS "vmState", v.generation AS "vmGeneration", v."hostId", v."homeId", v."taskId", v.asleep,
      v."diskMiB" + v."overlayMiB" AS "vmDiskMiB",
      (SELECT t.state FROM "Task" t WHERE t.id = v."taskId") AS "taskState"
    FROM "Migration" m JOIN "Vm" v ON v.id = m."vmId" WHERE m.id = ${id} FOR UPDATE OF m, v`;
  if (rows[0] === undefined) throw new BerthError('not-found', `There is no migration ${id} in the ledger`);
  return rows[0];
}

export async function loadMigration(deps: LedgerDeps, id: MigrationId): Promise<MigrationRecord & { task: TaskId | null }> {
  const row = await deps.ledger.migration.findUnique({ where: { id }, include: { vm: { select: { taskId: true } } } });
  if (row === null) throw new BerthError('not-found', `There is no migration ${id} in the ledger`);
  return { ...toRecord(row), task: row.vm.taskId as TaskId | null };
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
    error: row.error as TaskError | null,
  };
}

/** Disks that move alone hold no processors and no memory, but the network is theirs as it is that of the others. */
const diskMoveUnderWay = Prisma.sql`(m.mode = 'disks' AND m."committedAt" IS NOT NULL AND m.state IN ('running', 'stuck'))`;

async function readTargets(tx: Transaction, vmId: VmId): Promise<TargetHost[]> {
  return tx.$queryRaw<TargetHost[]>`
    SELECT h.id, h.state, h."acceptsMigrations", h.accelerator, h."cpuModel",
      EXISTS (SELECT FROM "HostImage" i JOIN "Vm" v ON v."imageId" = i."imageId" WHERE i."hostId" = h.id AND v.id = ${vmId}) AS "hasImage",
      jsonb_build_object('vcpus', h.vcpus, 'memoryMiB', h."memoryMiB") AS capacity,
      jsonb_build_object('vcpus', h."usedVcpus", 'memoryMiB', h."usedMemoryMiB") AS used,
      h."diskMiB" - h."usedDiskMiB" AS "freeDiskMiB",
      (SELECT count(*)::int FROM "Migration" m WHERE (m.reserved OR ${diskMoveUnderWay}) AND m."toId" = h.id) AS arriving,
      (SELECT count(*)::int FROM "Migration" m WHERE (m.reserved OR ${diskMoveUnderWay}) AND m."fromId" = h.id) AS leaving
    FROM "Host" h ORDER BY h.id`;
}

/** An older one that waits, and leaves the same host or goes to the same, comes first. */
async function olderWaiting(tx: Transaction, row: MigrationRow): Promise<string | null> {
  const rows = await tx.$queryRaw<{ id: string }[]>`
    SELECT id FROM "Migration" WHERE state = 'running' AND NOT reserved AND "committedAt" IS NULL AND "abortRequestedAt" IS NULL
      AND ("fromId" = ${row.fromId} OR "toId" = ${row.toId}) AND ("createdAt", id) < (${row.createdAt}, ${row.id})
    ORDER BY "createdAt", id LIMIT 1`;
  return rows[0]?.id ?? null;
}

function refuseUnmovable(row: MigrationRow): void {
  if (row.state !== 'running') throw new BerthError('conflict', `Migration ${row.id} is ${row.state} already; it cannot begin`);
  const movable: VmState[] = row.mode === 'cold' ? ['running', 'suspended'] : ['running'];
  const isThere = row.mode === 'disks' ? row.homeId === row.fromId && row.hostId === row.toId : row.hostId === row.fromId;
  if (!movable.includes(row.vmState) || !isThere)
    throw new BerthError(
      'conflict',
      `VM ${row.vmId} is ${row.vmState} at ${row.hostId ?? 'no host'}: only one that is ${movable.join(' or ')} can move`,
    );
  if (row.taskState !== null && row.taskState !== 'running')
    throw new BerthError('conflict', `Task ${row.taskId} is ${row.taskState}: its VMs move only while its command runs`);
}

/** What a VM needs on the disk of a host that it goes to: for its memory as a file, and for disks that come along. */
const diskRequired = (row: MigrationRow) => ({
  homeHost: row.homeId,
  diskMiB: row.moveDisk ? row.vmDiskMiB : 0,
  memoryMiB: row.mode === 'cold' || row.orCold ? row.memoryMiB : 0,
});

async function deferMigration(tx: Transaction, id: MigrationId, why: string): Promise<MigrationAdmission> {
  await tx.$executeRaw`UPDATE "Migration" SET waiting = ${why} WHERE id = ${id}`;
  return { admitted: false, reason: why };
}

/** Chooses the target and takes room there. What is promised grows under the placement lock, as for every placement. */
export async function reserveMigration(deps: LedgerDeps, id: MigrationId): Promise<MigrationAdmission> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockMigration(tx, id);
    const admitted = row.reserved || (row.mode === 'disks' && row.committedAt !== null && row.state === 'running');
    if (admitted) return { admitted: true, route: await readMigrationRoute(deps, tx, row) };
    refuseUnmovable(row);
    const older = await olderWaiting(tx, row);
    if (older !== null) return deferMigration(tx, id, `${older} was asked for earlier`);
    const diskNeed = diskRequired(row);
    const choice = chooseTarget(
      {
        host: row.fromId,
        vcpus: row.asleep ? 0 : row.vcpus,
        memoryMiB: row.asleep ? 0 : row.memoryMiB,
        to: row.toId,
        disk: diskNeed,
      },
      await readTargets(tx, row.vmId),
    );
    if (choice.kind === 'wait') return deferMigration(tx, id, choice.why);
    if (choice.kind === 'none') {
      const reasons = choice.refused.map(({ host, filter }) => `${host}: ${filter}`).join(', ') || 'there is no such host';
      throw new BerthError('migration-refused', `Moving ${row.vmId} away from ${row.fromId}: ${reasons}`);
    }
    if (row.mode === 'disks') {
      // The VM is at the target already: what is left is the part behind the commit.
      await tx.$executeRaw`
        UPDATE "Migration" SET waiting = NULL, "startedAt" = ${isoNow(deps)}::timestamptz, "committedAt" = ${isoNow(deps)}::timestamptz,
          "diskMiB" = ${diskNeededMiB(diskNeed, choice.to)}::int
        WHERE id = ${id}`;
      return { admitted: true, route: await readMigrationRoute(deps, tx, row) };
    }
    await tx.$executeRaw`
      UPDATE "Migration" SET reserved = true, "toId" = ${choice.to}, waiting = NULL, "startedAt" = ${isoNow(deps)}::timestamptz,
        "diskMiB" = ${diskNeededMiB(diskNeed, choice.to)}::int,
        vcpus = CASE WHEN ${row.asleep} THEN 0 ELSE vcpus END, "memoryMiB" = CASE WHEN ${row.asleep} THEN 0 ELSE "memoryMiB" END
      WHERE id = ${id}`;
    await tx.$executeRaw`UPDATE "Vm" SET state = 'migrating' WHERE id = ${row.vmId}`;
    return { admitted: true, route: await readMigrationRoute(deps, tx, { ...row, toId: choice.to as HostId }) };
  });
}

async function readMigrationRoute(deps: LedgerDeps, tx: Transaction, row: MigrationRow): Promise<MigrationRoute> {
  const placed = await readPlacedVm(tx, row.vmId);
  const vms = placed.vms.map((vm) => (vm.id === row.vmId ? { ...vm, hostId: row.toId, generation: row.generation } : vm));
  const vm = vmSpecs(deps, { ...placed, vms }).find((one) => one.id === row.vmId);
  const hostOf = (id: HostId | null) => {
    const host = placed.hosts.find((one) => one.id === id);
    if (host === undefined) throw new BerthError('internal', `BUG: migration ${row.id} names the host ${id}, which is none`);
    return { id: host.id, address: host.address };
  };
  if (vm === undefined) throw new BerthError('internal', `BUG: VM ${row.vmId} is none of those that were placed with it`);
  return {
    from: hostOf(row.fromId),
    to: hostOf(row.toId),
    home: hostOf(row.homeId),
    vm,
    suspended: row.asleep,
    sourceGeneration: row.vmGeneration,
  };
}

/** A live one that is to go on as files, as it was allowed to: room for its memory is held since its turn. */
export async function fallBackToCold(deps: LedgerDeps, id: MigrationId): Promise<void> {
  const changed = await deps.ledger.$executeRaw`
    UPDATE "Migration" SET mode = 'cold' WHERE id = ${id} AND reserved AND (mode = 'cold' OR "orCold")`;
  if (changed === 0) throw new BerthError('conflict', `Migration ${id} is not under way, or may not go on as files`);
}

/** How it goes. One that has ended keeps what was written then. */
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

/** It was heard behind the commit, and changes nothing of the outcome; a guest that is silent is a fact for outsiders. */
export async function recordMigratedGuest(deps: LedgerDeps, id: MigrationId, guest: MigratedGuest): Promise<void> {
  const now = isoNow(deps);
  await inTransaction(deps.ledger, async (tx) => {
    const row = await lockMigration(tx, id);
    const noted = await tx.$executeRaw`
      UPDATE "Migration" SET guest = ${guest} WHERE id = ${id} AND "committedAt" IS NOT NULL AND guest IS DISTINCT FROM ${guest}`;
    if (noted === 0 || guest !== 'silent' || row.toId === null) return;
    const { name } = await tx.vm.findUniqueOrThrow({ where: { id: row.vmId }, select: { name: true } });
    const { provider } = await tx.host.findUniqueOrThrow({ where: { id: row.toId }, select: { provider: true } });
    const { vmId: vm, ownerId: owner, taskId: task, toId: host, generation } = row;
    const movedAt = (row.committedAt ?? row.createdAt).toISOString();
    const data: VmSilentData = { vm, name, owner, task, host, provider, generation, migration: id, movedAt, silentAt: now };
    await writeEvent(tx, { type: vmEventTypes.silent, subject: vm, owner, time: now, data }, generation);
  });
}

/** It keeps its room at both hosts. What has ended is left alone. */
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

/** Accepted migrations for which no workflow has ever asked, oldest first: the API died before it could start one. */
export async function listMigrationsWithoutWorkflow(deps: LedgerDeps, olderThanS: number): Promise<MigrationRecord[]> {
  const rows = await deps.ledger.migration.findMany({
    where: {
      state: 'running',
      reserved: false,
      committedAt: null,
      waiting: null,
      createdAt: { lt: new Date(deps.clock() - olderThanS * 1000) },
    },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    take: 100,
  });
  return rows.map(toRecord);
}
