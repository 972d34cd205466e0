import { Prisma } from '../../generated/prisma/client.ts';
import { secondsAgo } from '../housekeeping.ts';
import { inTransaction, type LedgerDeps, type Transaction } from '../transaction.ts';

/**
 * Removes events that were published longer ago than they are kept: partitions whose newest event is older. First the floor
 * rises, so that no cursor is promised what begins to go; then the ids of the events go, and then the table. Each step is a
 * transaction of its own, and the next one begins with what it has left.
 */

/** Ids that one transaction removes: some tenths of a second. */
const idBatch = 5000;
/** Removing a table waits for those who use the log, and they for it: so long at most, and at another time again. */
const lockTimeoutMs = 200;
const daySeconds = 86_400;

interface ExpiredPartition {
  from: bigint;
  until: bigint;
  idsRemovedTo: bigint;
}

/** Says what is kept, and how long; the floor never falls. */
export async function raiseEventFloor(deps: LedgerDeps): Promise<void> {
  const days = deps.control.BERTH_EVENT_RETENTION_DAYS;
  const stated = days === 0 ? null : days;
  // A partition is complete when numbers have reached the next one.
  const floor =
    days === 0
      ? Prisma.sql`0`
      : Prisma.sql`COALESCE((SELECT max("from") - 1 FROM "EventPartition" WHERE "openedAt" < ${secondsAgo(deps, days * daySeconds)}), 0)`;
  await deps.ledger.$executeRaw`
    UPDATE "EventLog" SET floor = GREATEST(floor, ${floor}), "retentionDays" = ${stated}::float8
    WHERE floor < ${floor} OR "retentionDays" IS DISTINCT FROM ${stated}::float8`;
}

/** One step: some ids of the oldest partition below the floor, or its table. @returns how many events and ids it removed */
export async function removeEventsBelowFloor({ ledger }: LedgerDeps): Promise<number> {
  return inTransaction(ledger, async (tx) => {
    const partitions = await tx.$queryRaw<ExpiredPartition[]>`
      SELECT "from", until, "idsRemovedTo" FROM "EventPartition" WHERE until <= (SELECT floor + 1 FROM "EventLog")
      ORDER BY "from" LIMIT 1 FOR UPDATE SKIP LOCKED`;
    const partition = partitions[0];
    if (partition === undefined) return 0;
    const ids = await removeIds(tx, partition);
    if (ids === 0) await dropPartition(tx, partition);
    return Math.max(ids, 1);
  });
}

const tableOf = ({ from }: ExpiredPartition): Prisma.Sql => Prisma.raw(`"Event_${from}"`);

async function removeIds(tx: Transaction, partition: ExpiredPartition): Promise<number> {
  const { from, idsRemovedTo } = partition;
  const rows = await tx.$queryRaw<{ last: bigint | null; ids: number }[]>`
    WITH old AS (SELECT seq, id FROM ${tableOf(partition)} WHERE seq > ${idsRemovedTo} ORDER BY seq LIMIT ${idBatch}),
      gone AS (DELETE FROM "EventId" WHERE id IN (SELECT id FROM old))
    SELECT max(seq) AS last, count(*)::int AS ids FROM old`;
  const { last, ids } = rows[0]!;
  if (last !== null) await tx.eventPartition.update({ where: { from }, data: { idsRemovedTo: last } });
  return ids;
}

async function dropPartition(tx: Transaction, partition: ExpiredPartition): Promise<void> {
  await tx.$executeRaw`SELECT set_config('lock_timeout', ${`${lockTimeoutMs}ms`}, true)`;
  await tx.$executeRaw`DROP TABLE ${tableOf(partition)}`;
  await tx.eventPartition.delete({ where: { from: partition.from } });
}
