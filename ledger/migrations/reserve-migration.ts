import type { MigrationAdmission, MigrationRoute } from '../../contracts/ledger.ts';
import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { MigrationId } from '../../model/migration.ts';
import { hasEnded } from '../../model/states.ts';
import { chooseTarget, diskNeededMiB, type MovingRules, type TargetHost } from '../../scheduler/migration-target.ts';
import { releaseHoldOf } from '../balance/holds.ts';
import { isOpenToMigrations } from '../hosts/open-hosts.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { groupsIn, labelsOf, readMembers, rulesOfVm } from '../placement/read-rules.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { readPlacedVm } from '../vms/placed-vms.ts';
import { specOf } from '../vms/vm-specs.ts';
import { isMovable, sleepingGuest } from './accept-migration.ts';
import { lockMigration, type MigrationRow } from './migration-row.ts';

/** A migration of disks alone reserves neither processors nor memory, but it uses the network like the others. */
const diskMoveUnderWay = Prisma.sql`(m.mode = 'disks' AND m."committedAt" IS NOT NULL AND m.state IN ('running', 'stuck'))`;

async function readTargets(tx: Transaction, vmId: VmId): Promise<TargetHost[]> {
  const rows = await tx.$queryRaw<(TargetHost & { labels: unknown })[]>`
    SELECT h.id, h.state, h.labels, ${isOpenToMigrations} AS "acceptsMigrations", h.accelerator, h."cpuModel",
      EXISTS (SELECT FROM "HostImage" i JOIN "Vm" v ON v."imageId" = i."imageId" WHERE i."hostId" = h.id AND v.id = ${vmId}) AS "hasImage",
      jsonb_build_object('vcpus', h.vcpus, 'memoryMiB', h."memoryMiB") AS capacity,
      jsonb_build_object('vcpus', h."usedVcpus", 'memoryMiB', h."usedMemoryMiB") AS used,
      h."diskMiB" - h."usedDiskMiB" AS "freeDiskMiB",
      (SELECT count(*)::int FROM "Migration" m WHERE (m.reserved OR ${diskMoveUnderWay}) AND m."toId" = h.id) AS arriving,
      (SELECT count(*)::int FROM "Migration" m WHERE (m.reserved OR ${diskMoveUnderWay}) AND m."fromId" = h.id) AS leaving
    FROM "Host" h WHERE h."removedAt" IS NULL ORDER BY h.id`;
  return rows.map((row) => ({ ...row, labels: labelsOf(row.labels) }));
}

/** null: it may run anywhere, or is at its target already, where its disks follow it. */
async function readRules(tx: Transaction, { ownerId, rules: stored, mode }: MigrationRow): Promise<MovingRules | null> {
  const rules = mode === 'disks' ? null : rulesOfVm(ownerId, stored);
  return rules === null ? null : { rules, members: await readMembers(tx, groupsIn([rules])) };
}

/** An older migration from the same host, or to the same one, that waits for admission: it comes first. */
async function olderWaiting(tx: Transaction, row: MigrationRow): Promise<string | null> {
  const rows = await tx.$queryRaw<{ id: string }[]>`
    SELECT id FROM "Migration" WHERE state = 'running' AND NOT reserved AND "committedAt" IS NULL AND "abortRequestedAt" IS NULL
      AND ("fromId" = ${row.fromId} OR "toId" = ${row.toId}) AND ("createdAt", id) < (${row.createdAt}, ${row.id})
    ORDER BY "createdAt", id LIMIT 1`;
  return rows[0]?.id ?? null;
}

function refuseUnmovable(row: MigrationRow): void {
  if (row.state !== 'running') throw new BerthError('conflict', `Migration ${row.id} is ${row.state} already; it cannot begin`);
  const isAtSource = row.mode === 'disks' ? row.homeId === row.fromId && row.hostId === row.toId : row.hostId === row.fromId;
  if (!isMovable(row.mode, row.vmState) || !isAtSource)
    throw new BerthError('conflict', `VM ${row.vmId} is ${row.vmState} at ${row.hostId ?? 'no host'}: it cannot move from there`);
  if (row.mode === 'live' && row.vmPausedBy === 'guest') throw new BerthError('conflict', `VM ${row.vmId} ${sleepingGuest}`);
  if (row.taskState !== null && row.taskState !== 'running')
    throw new BerthError('conflict', `Task ${row.taskId} is ${row.taskState}: its VMs move only while its command runs`);
}

/** What a VM needs on its target's disk: space for its memory as a file, and for disks that are copied with it. */
const diskRequired = (row: MigrationRow) => ({
  homeHost: row.homeId,
  diskMiB: row.moveDisk ? row.vmDiskMiB : 0,
  memoryMiB: (row.mode === 'cold' || row.orCold) && !hasEnded(row.vmState) ? row.memoryMiB : 0,
});

async function deferMigration(tx: Transaction, id: MigrationId, why: string): Promise<MigrationAdmission> {
  await tx.$executeRaw`UPDATE "Migration" SET waiting = ${why} WHERE id = ${id}`;
  return { admitted: false, reason: why };
}

/** Chooses the target and allocates capacity there, under the placement lock, like every placement. */
export async function reserveMigration(deps: LedgerDeps, id: MigrationId): Promise<MigrationAdmission> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await lockMigration(tx, id);
    await releaseHoldOf(tx, id);
    const admitted = row.reserved || (row.committedAt !== null && (row.state === 'running' || row.state === 'stuck'));
    if (admitted) return { admitted: true, route: await readMigrationRoute(deps, tx, row) };
    refuseUnmovable(row);
    const older = await olderWaiting(tx, row);
    if (older !== null) return deferMigration(tx, id, `${older} was requested earlier`);
    const diskNeed = diskRequired(row);
    const choice = chooseTarget(
      {
        host: row.fromId,
        vcpus: row.asleep ? 0 : row.vcpus,
        memoryMiB: row.asleep ? 0 : row.memoryMiB,
        to: row.toId,
        disk: diskNeed,
        placement: await readRules(tx, row),
      },
      await readTargets(tx, row.vmId),
    );
    if (choice.kind === 'wait') return deferMigration(tx, id, choice.why);
    if (choice.kind === 'none') {
      const reasons = choice.refused.map(({ host, filter }) => `${host}: ${filter}`).join(', ') || 'there is no such host';
      throw new BerthError('migration-refused', `Moving ${row.vmId} away from ${row.fromId}: ${reasons}`);
    }
    if (row.mode === 'disks') {
      // The VM is at the target already: only the part after the commit remains.
      await tx.$executeRaw`
        UPDATE "Migration" SET waiting = NULL, "startedAt" = ${isoNow(deps)}::timestamptz, "committedAt" = ${isoNow(deps)}::timestamptz,
          "diskMiB" = ${diskNeededMiB(diskNeed, choice.to)}::int
        WHERE id = ${id}`;
      return { admitted: true, route: await readMigrationRoute(deps, tx, row) };
    }
    const endedAs = hasEnded(row.vmState) ? row.vmState : null;
    await tx.$executeRaw`
      UPDATE "Migration" SET reserved = true, "pausedBy" = ${row.vmPausedBy}::"PausedBy",
        "endedAs" = ${endedAs}::"VmState", "toId" = ${choice.to}, waiting = NULL, "startedAt" = ${isoNow(deps)}::timestamptz,
        "diskMiB" = ${diskNeededMiB(diskNeed, choice.to)}::int,
        vcpus = CASE WHEN ${row.asleep} THEN 0 ELSE vcpus END, "memoryMiB" = CASE WHEN ${row.asleep} THEN 0 ELSE "memoryMiB" END
      WHERE id = ${id}`;
    await tx.$executeRaw`UPDATE "Vm" SET state = 'migrating' WHERE id = ${row.vmId}`;
    return {
      admitted: true,
      route: await readMigrationRoute(deps, tx, { ...row, pausedBy: row.vmPausedBy, endedAs, toId: choice.to as HostId }),
    };
  });
}

async function readMigrationRoute(deps: LedgerDeps, tx: Transaction, row: MigrationRow): Promise<MigrationRoute> {
  const placed = await readPlacedVm(tx, row.vmId, { at: row.toId, hosts: [row.fromId, row.homeId] });
  const vms = placed.vms.map((vm) => (vm.id === row.vmId ? { ...vm, hostId: row.toId, generation: row.generation } : vm));
  const hostOf = (id: HostId | null) => {
    const host = placed.hosts.find((one) => one.id === id);
    if (host === undefined) throw new BerthError('internal', `BUG: migration ${row.id} names the unknown host ${id}`);
    return { id: host.id, address: host.address };
  };
  return {
    from: hostOf(row.fromId),
    to: hostOf(row.toId),
    home: hostOf(row.homeId),
    vm: specOf(deps, { ...placed, vms }, row.vmId),
    suspended: row.asleep,
    paused: row.pausedBy !== null,
    ended: row.endedAs !== null,
    sourceGeneration: row.vmGeneration,
  };
}
