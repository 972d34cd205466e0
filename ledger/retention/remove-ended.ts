import { Prisma } from '../../generated/prisma/client.ts';
import { endedUntil } from '../ended-counts.ts';
import { secondsAgo } from '../housekeeping.ts';
import { inTransaction, type LedgerDeps, type Transaction } from '../transaction.ts';

/**
 * Removes tasks and VMs that ended longer ago than they are kept, with what is theirs alone: leases, migrations, residencies,
 * loads. What still means something stays: see `isNeeded`. Their usage is in the events of their ends, which are kept by their
 * own retention, and the books are never removed.
 */

/** Tasks or VMs that one transaction removes. */
const batch = 200;
/** The oldest that are looked at for them: some may have to stay. */
const window = 2000;
const daySeconds = 86_400;

/** The moment before which what has ended may go: counted for the metrics already. null: it is kept for ever. */
export async function endedBefore(deps: LedgerDeps): Promise<Date | null> {
  const days = deps.control.BERTH_ENDED_RETENTION_DAYS;
  if (days === 0) return null;
  return endedUntil(deps.ledger, secondsAgo(deps, days * daySeconds));
}

/**
 * Why a VM stays: it has not ended, or lately; a host may still have something of it, or an edge a rule; it is what an image was
 * built in; one of its migrations has not ended.
 */
const vmIsNeeded = (v: Prisma.Sql, before: Date): Prisma.Sql => Prisma.sql`(
  ${v}.state <> 'removed' OR COALESCE(${v}."endedAt" > ${before}, false)
  OR EXISTS (SELECT FROM "Fence" f WHERE f."vmId" = ${v}.id)
  OR EXISTS (SELECT FROM "PublishedPort" p WHERE p."vmId" = ${v}.id)
  OR EXISTS (SELECT FROM "Image" i WHERE i."buildVmId" = ${v}.id)
  OR EXISTS (SELECT FROM "Migration" m WHERE m."vmId" = ${v}.id AND (m."finishedAt" IS NULL OR m."finishedAt" > ${before})))`;

/** Its log is kept, or money is held for it; or its lease has not ended, or lately. */
const isNeeded = (one: Prisma.Sql, before: Date): Prisma.Sql => Prisma.sql`(
  EXISTS (SELECT FROM "StoredLog" s WHERE s."holderId" = ${one}.id)
  OR EXISTS (SELECT FROM "Account" a WHERE a.kind = 'hold' AND a.holder = ${one}."ownerId"
    AND a.name IN (${one}.id, ${one}."leaseId") AND a."closedAt" IS NULL)
  OR EXISTS (SELECT FROM "Lease" l WHERE l.id = ${one}."leaseId" AND (l."endedAt" IS NULL OR l."endedAt" > ${before})))`;

interface EndedRow {
  id: string;
  leaseId: string | null;
}

/**
 * Some hundred rows of tables that may have millions: counts of rows that are out of date must not make a plan that reads one whole, which
 * is quicker where there are few.
 */
const readByIndex = (tx: Transaction): Promise<unknown> =>
  tx.$executeRaw`SELECT set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true)`;

/** Removes the tasks that ended first; returns how many. */
export async function removeEndedTasks({ ledger }: LedgerDeps, before: Date): Promise<number> {
  return inTransaction(ledger, async (tx) => {
    await readByIndex(tx);
    const tasks = await tx.$queryRaw<EndedRow[]>`
      WITH old AS (SELECT id FROM "Task" WHERE "finishedAt" <= ${before} ORDER BY "finishedAt" LIMIT ${window})
      SELECT t.id, t."leaseId" FROM old JOIN "Task" t USING (id)
      WHERE NOT ${isNeeded(Prisma.sql`t`, before)}
        AND NOT EXISTS (SELECT FROM "Vm" v WHERE v."taskId" = t.id AND ${vmIsNeeded(Prisma.sql`v`, before)})
      LIMIT ${batch} FOR UPDATE OF t SKIP LOCKED`;
    const ids = tasks.map(({ id }) => id);
    if (ids.length === 0) return 0;
    const vms = await tx.$queryRaw<{ id: string }[]>`SELECT id FROM "Vm" WHERE "taskId" = ANY(${ids})`;
    await removeVms(
      tx,
      vms.map(({ id }) => id),
    );
    await tx.$executeRaw`DELETE FROM "Task" WHERE id = ANY(${ids})`;
    await removeLeases(tx, tasks);
    return ids.length;
  });
}

/** Removes the VMs without a task that ended first; returns how many. */
export async function removeEndedVms({ ledger }: LedgerDeps, before: Date): Promise<number> {
  return inTransaction(ledger, async (tx) => {
    await readByIndex(tx);
    const end = Prisma.sql`COALESCE("endedAt", "removalRequestedAt", "createdAt")`;
    const vms = await tx.$queryRaw<EndedRow[]>`
      WITH old AS (
        SELECT id FROM "Vm" WHERE state = 'removed' AND "taskId" IS NULL AND ${end} <= ${before} ORDER BY ${end} LIMIT ${window})
      SELECT v.id, v."leaseId" FROM old JOIN "Vm" v USING (id)
      WHERE NOT ${isNeeded(Prisma.sql`v`, before)} AND NOT ${vmIsNeeded(Prisma.sql`v`, before)}
      LIMIT ${batch} FOR UPDATE OF v SKIP LOCKED`;
    if (vms.length === 0) return 0;
    await removeVms(
      tx,
      vms.map(({ id }) => id),
    );
    await removeLeases(tx, vms);
    return vms.length;
  });
}

/** With what is of them alone. Those that never ran have no end, and are counted for the metrics here. */
async function removeVms(tx: Transaction, ids: string[]): Promise<void> {
  await tx.$executeRaw`
    INSERT INTO "EndedCount" (subject, label, rows)
    SELECT 'vms', json_build_array(boot, "bootWhy")::text, count(*) FROM "Vm" WHERE id = ANY(${ids}) AND "endedAt" IS NULL GROUP BY 2
    ON CONFLICT (subject, label) DO UPDATE SET rows = "EndedCount".rows + EXCLUDED.rows`;
  await tx.$executeRaw`DELETE FROM "Migration" WHERE "vmId" = ANY(${ids})`;
  await tx.$executeRaw`DELETE FROM "VmStay" WHERE "vmId" = ANY(${ids})`;
  await tx.$executeRaw`DELETE FROM "Vm" WHERE id = ANY(${ids})`;
}

async function removeLeases(tx: Transaction, rows: readonly EndedRow[]): Promise<void> {
  const ids = rows.flatMap(({ leaseId }) => (leaseId === null ? [] : [leaseId]));
  await tx.$executeRaw`DELETE FROM "Lease" WHERE id = ANY(${ids})`;
}
