import { ownerUsageTypes } from '../../model/books/usage-event.ts';
import { greatest } from '../../model/money/exact.ts';
import type { ServiceUsage } from '../../model/money/services.ts';
import type { Ledger } from '../client.ts';
import { writeEvent } from '../events/write-event.ts';
import { batch } from '../housekeeping.ts';
import { inTransaction, isoOf, type Transaction } from '../transaction.ts';
import { chargeServices } from './charge-services.ts';

/** How often the usage of an owner is told. */
const intervalMs = 3_600_000n;

/**
 * Tells, and charges, what owners have used besides VMs: bytes of the repository and published ports, each owner in a transaction of
 * its own. All of it is metered by triggers, on the database's clock: prisma/migrations.
 * @returns how many were due; at most a hundred, and the caller asks again
 */
export async function recordDueOwnerUsage(ledger: Ledger): Promise<number> {
  const due = await ledger.$queryRaw<{ id: string }[]>`
    SELECT m."ownerId" AS id FROM "OwnerMeter" m WHERE m."usageMs" <= berth_now_ms() - ${intervalMs} AND (m.bytes > 0 OR m."byteMs" > 0
      OR EXISTS (SELECT FROM "PublishedPort" p WHERE p."ownerId" = m."ownerId" AND p."meteredMs" IS NOT NULL)
      OR EXISTS (SELECT FROM "PortStay" s WHERE s."ownerId" = m."ownerId"))
    ORDER BY m."usageMs", m."ownerId" LIMIT ${batch}`;
  for (const { id } of due) await inTransaction(ledger, (tx) => recordOwnerUsage(tx, id));
  return due.length;
}

interface MeterRow {
  bytes: bigint;
  byteMs: string;
  atMs: bigint;
  usageMs: bigint;
  nowMs: bigint;
}

async function recordOwnerUsage(tx: Transaction, owner: string): Promise<void> {
  const rows = await tx.$queryRaw<MeterRow[]>`
    SELECT bytes, "byteMs"::text AS "byteMs", "atMs", "usageMs", berth_now_ms() AS "nowMs" FROM "OwnerMeter"
    WHERE "ownerId" = ${owner} FOR NO KEY UPDATE`;
  const [meter] = rows;
  // Another control worker has told it.
  if (meter === undefined || meter.usageMs > meter.nowMs - intervalMs) return;
  const untilMs = greatest(meter.nowMs, meter.atMs);
  const byteMs = BigInt(meter.byteMs) + meter.bytes * (untilMs - meter.atMs);
  await tx.$executeRaw`
    UPDATE "OwnerMeter" SET "byteMs" = 0, "atMs" = ${untilMs}, "usageMs" = ${untilMs} WHERE "ownerId" = ${owner}`;
  const used = { byteMs, portMs: await takePortMs(tx, owner) };
  if (used.byteMs + used.portMs > 0n) await writeUsage(tx, owner, meter.usageMs, untilMs, used);
  await chargeServices(tx, owner, used, Number(untilMs));
}

/** The time of its ports that no event has told; it is told by this one. */
async function takePortMs(tx: Transaction, owner: string): Promise<bigint> {
  const ended = await tx.$queryRaw<{ ms: bigint }[]>`
    DELETE FROM "PortStay" WHERE "ownerId" = ${owner} RETURNING "untilMs" - "fromMs" AS ms`;
  // In the order in which an edge's exchange locks them. One that ends meanwhile is left out here, and in "PortStay" the next time.
  const active = await tx.$queryRaw<{ id: string; ms: bigint; nowMs: bigint }[]>`
    SELECT id, p.now - "meteredMs" AS ms, p.now AS "nowMs"
    FROM "PublishedPort", LATERAL (SELECT GREATEST(berth_now_ms(), "meteredMs") AS now) p
    WHERE "ownerId" = ${owner} AND "meteredMs" IS NOT NULL ORDER BY id FOR NO KEY UPDATE OF "PublishedPort"`;
  if (active.length > 0) {
    const ids = active.map(({ id }) => id);
    const nows = active.map(({ nowMs }) => String(nowMs));
    await tx.$executeRaw`
      UPDATE "PublishedPort" p SET "meteredMs" = t.now FROM unnest(${ids}::text[], ${nows}::text[]::bigint[]) AS t(id, now) WHERE p.id = t.id`;
  }
  return [...ended, ...active].reduce((sum, { ms }) => sum + ms, 0n);
}

async function writeUsage(tx: Transaction, owner: string, fromMs: bigint, untilMs: bigint, used: ServiceUsage): Promise<void> {
  const until = isoOf(Number(untilMs));
  const data = {
    owner,
    from: isoOf(Number(fromMs)),
    until,
    repositoryByteSeconds: Number(used.byteMs) / 1000,
    portSeconds: Number(used.portMs) / 1000,
  };
  const event = { type: ownerUsageTypes.recorded, subject: owner, owner, time: until, n: Number(untilMs), data };
  await writeEvent(tx, event, 'reject');
}
