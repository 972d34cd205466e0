import type { VmId } from '../../model/ids.ts';
import type { VmLoad } from '../../model/vm.ts';
import type { MigrationResult } from './contract.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from './deps.ts';
import type { MigrationRow } from './migrations.ts';

/**
 * What a live migration took, in the transaction that commits it. Its concurrency is the time that it shared with
 * others at either of its hosts, as a part of its own, and itself.
 */
export async function measureMigration(
  tx: Transaction,
  row: MigrationRow,
  { bytes, downtimeMs, phases }: MigrationResult,
  now: string,
): Promise<void> {
  const startedAt = (row.startedAt ?? row.createdAt).toISOString();
  const seconds = Math.max(0, Date.parse(now) - Date.parse(startedAt)) / 1000;
  const flow = phases.filter(({ name }) => name === 'preCopy' || name === 'switch');
  const transferS = flow.reduce((sum, phase) => sum + (phase.seconds ?? 0), 0);
  await tx.$executeRaw`
    INSERT INTO "Measurement" (id, kind, "vmId", "fromId", "toId", "memoryMiB", "residentMiB", "dirtyMiBPerS", concurrency,
      seconds, "transferS", bytes, "downtimeMs", phases, at)
    SELECT ${`${row.id}/live`}, 'live', ${row.vmId}, ${row.fromId}, ${row.toId}, ${row.memoryMiB}, l."residentMiB",
      l."dirtyMiBPerS", 1 + COALESCE((
        SELECT sum(extract(epoch FROM LEAST(COALESCE(o."finishedAt", ${now}::timestamptz), ${now}::timestamptz)
          - GREATEST(o."startedAt", ${startedAt}::timestamptz)))
        FROM "Migration" o
        WHERE o.id <> ${row.id} AND (o."fromId" IN (${row.fromId}, ${row.toId}) OR o."toId" IN (${row.fromId}, ${row.toId}))
          AND o."startedAt" < ${now}::timestamptz AND COALESCE(o."finishedAt", ${now}::timestamptz) > ${startedAt}::timestamptz
      ), 0) / GREATEST(${seconds}::float8, 0.001), ${seconds}::float8, ${transferS}::float8, ${bytes}::bigint,
      ${downtimeMs}::int, ${JSON.stringify(phases)}::jsonb, ${now}::timestamptz
    FROM (SELECT 1) AS one LEFT JOIN "VmLoad" l ON l."vmId" = ${row.vmId}
    ON CONFLICT (id) DO NOTHING`;
}

/** What a host saw its VMs do with their memory; of VMs that are gone meanwhile, nothing is kept. */
export async function noteLoads(deps: LedgerDeps, loads: { vmId: VmId; load: VmLoad }[]): Promise<void> {
  const rows = loads.map(({ vmId, load }) => ({ vm: vmId, resident: load.residentMiB, dirty: load.dirtyMiBPerS }));
  await inTransaction(
    deps.ledger,
    (tx) => tx.$executeRaw`
      INSERT INTO "VmLoad" ("vmId", "residentMiB", "dirtyMiBPerS", at)
      SELECT r.vm, r.resident, r.dirty, ${isoNow(deps)}::timestamptz
      FROM jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) AS r(vm text, resident float8, dirty float8)
      JOIN "Vm" v ON v.id = r.vm
      ON CONFLICT ("vmId") DO UPDATE SET "residentMiB" = EXCLUDED."residentMiB",
        "dirtyMiBPerS" = COALESCE(EXCLUDED."dirtyMiBPerS", "VmLoad"."dirtyMiBPerS"), at = EXCLUDED.at`,
  );
}
