import type { MigrationResult, Recovery } from '../../contracts/ledger.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { MigrationId, MigrationPhase, PhaseEntry } from '../../model/migration.ts';
import type { VmLoad } from '../../model/vm.ts';
import type { OperationKind } from '../../scheduler/drains/migration-operations.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import type { MigrationRow } from './migration-row.ts';

/** One operation of a migration, or one on its own. The operations of a migration are consecutive, so their seconds add up to its duration. */
interface OperationTiming {
  kind: OperationKind;
  from: HostId;
  to: HostId;
  fromMs: number;
  untilMs: number;
  transferS: number;
  bytes: number;
}

/**
 * Records how long a migration took, in the transaction that commits it. A live one whose switch was not observed is left
 * out: a worker was away meanwhile, and the time is that of its return.
 */
export async function recordMigrationTiming(
  tx: Transaction,
  row: MigrationRow,
  result: MigrationResult,
  now: string,
): Promise<void> {
  if (row.mode === 'live' && result.downtimeMs === null) return;
  // The model predicts VMs that run, or are suspended.
  if (row.pausedBy !== null || row.endedAs !== null) return;
  for (const one of row.mode === 'live' ? [liveTiming(row, result, now)] : coldTimings(row, result, now))
    await writeMeasurement(tx, row, one, result, now);
}

const phaseSeconds = (phases: readonly PhaseEntry[], names: readonly MigrationPhase[]): number =>
  phases.filter(({ name }) => names.includes(name)).reduce((sum, { seconds }) => sum + (seconds ?? 0), 0);

const startedMs = (row: MigrationRow): number => (row.startedAt ?? row.createdAt).getTime();

function liveTiming(row: MigrationRow, { bytes, phases }: MigrationResult, now: string): OperationTiming {
  const [from, to] = [row.fromId, row.toId!];
  const transferS = phaseSeconds(phases, ['preCopy', 'switch']);
  return { kind: 'live', from, to, fromMs: startedMs(row), untilMs: Date.parse(now), transferS, bytes };
}

/**
 * The time until the memory is written counts as suspension, the time after it was copied as resumption. The size of the
 * memory's file is not measured, so only the copy has bytes. A VM that was suspended before has the copy alone.
 */
function coldTimings(row: MigrationRow, { bytes, phases }: MigrationResult, now: string): OperationTiming[] {
  const [from, to] = [row.fromId, row.toId!];
  const endOf = (phase: MigrationPhase): number | null => {
    const entry = phases.find(({ name }) => name === phase);
    return entry === undefined ? null : Date.parse(entry.startedAt) + (entry.seconds ?? 0) * 1000;
  };
  const [suspendedMs, copiedMs] = [endOf('suspend'), endOf('copy')];
  // A migration that began live and fell back to cold: its pre-copy is not part of these operations.
  const preCopyEndMs = endOf('preCopy');
  const [startMs, endMs] = [preCopyEndMs ?? startedMs(row), Date.parse(now)];
  const copy = { kind: 'copy' as const, from, to, transferS: phaseSeconds(phases, ['copy']), bytes };
  if (suspendedMs === null || copiedMs === null) return [{ ...copy, fromMs: startMs, untilMs: endMs }];
  const [suspendS, restoreS] = [phaseSeconds(phases, ['suspend']), phaseSeconds(phases, ['restore'])];
  return [
    { kind: 'suspend', from, to: from, fromMs: startMs, untilMs: suspendedMs, transferS: suspendS, bytes: 0 },
    { ...copy, fromMs: suspendedMs, untilMs: copiedMs },
    { kind: 'resume', from: to, to, fromMs: copiedMs, untilMs: endMs, transferS: restoreS, bytes: 0 },
  ];
}

/** Records how long the disks of a VM took to follow it, or to move alone, in the transaction that changes their home. */
export async function recordDiskMoveTiming(tx: Transaction, row: MigrationRow, phases: PhaseEntry[], now: string): Promise<void> {
  const entry = phases.find(({ name }) => name === 'moveDisk');
  if (entry === undefined || row.homeId === null || row.toId === null || row.committedAt === null) return;
  const [fromMs, untilMs] = [row.committedAt.getTime(), Date.parse(now)];
  const { bytes, seconds } = entry;
  const disks: OperationTiming = {
    kind: 'disks',
    from: row.homeId,
    to: row.toId,
    fromMs,
    untilMs,
    transferS: seconds ?? 0,
    bytes,
  };
  await writeMeasurement(tx, row, disks, { downtimeMs: null, phases }, now);
}

/** Records how long the suspension or restoration of a VM took since its request, in the transaction that ends it. */
export async function recordPowerTiming(
  tx: Transaction,
  kind: 'suspend' | 'resume',
  { id, generation, hostId, operationAt }: { id: VmId; generation: number; hostId: HostId; operationAt: Date | null },
  now: string,
): Promise<void> {
  // A VM of a task: the lease plan measures its suspensions.
  if (operationAt === null) return;
  const [fromMs, untilMs] = [operationAt.getTime(), Date.parse(now)];
  const measured: OperationTiming = {
    kind,
    from: hostId,
    to: hostId,
    fromMs,
    untilMs,
    transferS: (untilMs - fromMs) / 1000,
    bytes: 0,
  };
  const row = { id: `${id}-${generation}`, vmId: id, vmDiskMiB: 0 };
  await writeMeasurement(tx, row, measured, { downtimeMs: null, phases: [] }, now);
}

/** Concurrency is 1 plus the time that other migrations overlapped with it on either of its hosts, as a part of its own duration. */
async function writeMeasurement(
  tx: Transaction,
  row: Pick<MigrationRow, 'vmId' | 'vmDiskMiB'> & { id: string },
  { kind, from, to, fromMs, untilMs, transferS, bytes }: OperationTiming,
  { downtimeMs, phases }: Pick<MigrationResult, 'downtimeMs' | 'phases'>,
  now: string,
): Promise<void> {
  const startedAt = new Date(fromMs).toISOString();
  const endedAt = new Date(Math.max(fromMs, untilMs)).toISOString();
  const seconds = Math.max(0, untilMs - fromMs) / 1000;
  await tx.$executeRaw`
    INSERT INTO "Measurement" (id, kind, "vmId", "fromId", "toId", "memoryMiB", "residentMiB", "dirtyMiBPerS", "diskMiB", concurrency,
      seconds, "transferS", bytes, "downtimeMs", phases, at)
    SELECT ${`${row.id}/${kind}`}, ${kind}, ${row.vmId}, ${from}, ${to}, v."memoryMiB", l."residentMiB",
      l."dirtyMiBPerS", ${kind === 'disks' ? row.vmDiskMiB : null}::int, 1 + COALESCE((
        SELECT sum(extract(epoch FROM LEAST(COALESCE(o."finishedAt", ${endedAt}::timestamptz), ${endedAt}::timestamptz)
          - GREATEST(o."startedAt", ${startedAt}::timestamptz)))
        FROM "Migration" o
        WHERE o.id <> ${row.id} AND (o."fromId" IN (${from}, ${to}) OR o."toId" IN (${from}, ${to}))
          AND o."startedAt" < ${endedAt}::timestamptz AND COALESCE(o."finishedAt", ${endedAt}::timestamptz) > ${startedAt}::timestamptz
      ), 0) / GREATEST(${seconds}::float8, 0.001), ${seconds}::float8, ${transferS}::float8, ${bytes}::bigint,
      ${downtimeMs}::int, ${JSON.stringify(phases)}::jsonb, ${now}::timestamptz
    FROM "Vm" v LEFT JOIN "VmLoad" l ON l."vmId" = v.id WHERE v.id = ${row.vmId}
    ON CONFLICT (id) DO NOTHING`;
}

/** Records the loads that a host observed; loads of VMs that were removed meanwhile are dropped. */
export async function recordLoads(deps: LedgerDeps, loads: { vmId: VmId; load: VmLoad }[]): Promise<void> {
  const rows = loads.map(({ vmId, load: { residentMiB, dirtyMiBPerS, busyCpus } }) => ({
    vm: vmId,
    resident: residentMiB,
    dirty: dirtyMiBPerS,
    busy: busyCpus,
  }));
  await inTransaction(
    deps.ledger,
    (tx) => tx.$executeRaw`
      INSERT INTO "VmLoad" ("vmId", "residentMiB", "dirtyMiBPerS", "busyCpus", at)
      SELECT r.vm, r.resident, r.dirty, r.busy, ${isoNow(deps)}::timestamptz
      FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS r(vm text, resident float8, dirty float8, busy float8)
      JOIN "Vm" v ON v.id = r.vm
      ON CONFLICT ("vmId") DO UPDATE SET "residentMiB" = EXCLUDED."residentMiB",
        "dirtyMiBPerS" = COALESCE(EXCLUDED."dirtyMiBPerS", "VmLoad"."dirtyMiBPerS"),
        "busyCpus" = COALESCE(EXCLUDED."busyCpus", "VmLoad"."busyCpus"), at = EXCLUDED.at`,
  );
}

/** A recovery is observed from its beginning, so only for this long after the migration's commit. */
const recoveryWindowMs = 10_000;

/** VMs that a drain has just moved and whose processor load before the move is known: they recover until the load is as high. */
export async function readRecoveries(
  tx: Transaction,
  { id, hostId }: { id: string; hostId: string },
  nowMs: number,
): Promise<Recovery[]> {
  return tx.$queryRaw<Recovery[]>`
    SELECT m.id AS migration, m."vmId" AS "vmId", v.generation, v."hostId" AS host, l."busyCpus"
    FROM "Migration" m JOIN "Vm" v ON v.id = m."vmId" AND v."hostId" = m."toId" AND v.state = 'running'
      JOIN "VmLoad" l ON l."vmId" = v.id AND l."busyCpus" IS NOT NULL
      AND l.at BETWEEN m."committedAt" - interval '15 minutes' AND m."committedAt"
    WHERE m."requestedBy" = ${id} AND m."fromId" = ${hostId} AND m.mode <> 'disks' AND m."pausedBy" IS NULL
      AND m."committedAt" > ${new Date(nowMs - recoveryWindowMs).toISOString()}::timestamptz
    ORDER BY m.id`;
}

/** The VM's load is as high as before: records, once, the time since the commit of its migration. */
export async function recordRecovery(deps: LedgerDeps, migration: MigrationId): Promise<void> {
  await inTransaction(
    deps.ledger,
    (tx) => tx.$executeRaw`
      UPDATE "Measurement" SET "recoveryS" = GREATEST(0, extract(epoch FROM ${isoNow(deps)}::timestamptz - at))
      WHERE id IN (${`${migration}/live`}, ${`${migration}/resume`}) AND "recoveryS" IS NULL`,
  );
}
