import { z } from 'zod';
import { keptMs } from '../../model/load/load.ts';
import type { Ledger } from '../client.ts';
import { inTransaction, isoOf, type Transaction } from '../transaction.ts';
import { hourMs, mergeChunks, minuteMs, parseChunk } from './load-rows.ts';

/** Hours of hosts in one call, and rows in one removal. */
const batch = { hours: 50, removed: 500 } as const;

const Due = z.strictObject({ hostId: z.string(), hourMs: z.number() });
const Row = z.strictObject({
  fromMs: z.number(),
  processors: z.number(),
  memoryMiB: z.int(),
  diskMiB: z.int(),
  host: z.string(),
  vms: z.string(),
});

/**
 * Makes minutes and an hour of each hour of samples that is kept no longer, and removes what is too old. A step is bounded.
 * Several control workers may do so at once: who removes the samples of an hour writes what becomes of them, in one transaction.
 * @returns whether there is more to do
 */
export async function rollUpLoads(ledger: Ledger, nowMs: number): Promise<'done' | 'more'> {
  const before = isoOf(Math.floor((nowMs - keptMs.sample) / hourMs) * hourMs);
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT "hostId", (extract(epoch FROM date_trunc('hour', "fromAt", 'UTC')) * 1000)::float8 AS "hourMs"
    FROM "LoadChunk" WHERE detail = 'sample' AND "untilAt" < ${before}::timestamptz + interval '20 minutes' AND "fromAt" < ${before}::timestamptz
    GROUP BY 1, 2 ORDER BY 2, 1 LIMIT ${batch.hours}`;
  const due = z.array(Due).parse(rows);
  for (const { hostId, hourMs: fromMs } of due) await inTransaction(ledger, (tx) => rollUpHour(tx, hostId, fromMs));
  const removed = await removeOld(ledger, nowMs);
  return due.length === batch.hours || removed === batch.removed ? 'more' : 'done';
}

async function rollUpHour(tx: Transaction, hostId: string, hourFromMs: number): Promise<void> {
  const [from, until] = [isoOf(hourFromMs), isoOf(hourFromMs + hourMs)];
  const removed = await tx.$queryRaw<unknown[]>`
    DELETE FROM "LoadChunk" WHERE "hostId" = ${hostId} AND detail = 'sample'
      AND "fromAt" >= ${from}::timestamptz AND "fromAt" < ${until}::timestamptz
    RETURNING (extract(epoch FROM "fromAt") * 1000)::float8 AS "fromMs", processors, "memoryMiB", "diskMiB", host, vms`;
  const samples = z.array(Row).parse(removed);
  const last = samples.at(-1);
  if (last === undefined) return;
  const chunks = samples.map(({ fromMs, host, vms }) => ({ fromMs, ...parseChunk(host, vms) }));
  for (const [detail, stepMs] of [
    ['minute', minuteMs],
    ['hour', hourMs],
  ] as const) {
    const { host, vms } = mergeChunks(chunks, hourFromMs, stepMs);
    const [endS, lengthS] = host.at(-1) ?? [0, 0];
    // Samples that came late make a second chunk of their hour.
    await tx.$executeRaw`
      INSERT INTO "LoadChunk" ("hostId", detail, id, "fromAt", "untilAt", processors, "memoryMiB", "diskMiB", host, vms)
      SELECT ${hostId}, ${detail}::"LoadDetail", ${from} || '/' || count(*), ${from}::timestamptz,
        ${isoOf(hourFromMs + (endS + lengthS) * 1000)}::timestamptz, ${last.processors}::float8, ${last.memoryMiB}::int, ${last.diskMiB}::int,
        ${JSON.stringify(host)}, ${JSON.stringify(vms)}
      FROM "LoadChunk" WHERE "hostId" = ${hostId} AND detail = ${detail}::"LoadDetail" AND "fromAt" = ${from}::timestamptz`;
  }
}

async function removeOld(ledger: Ledger, nowMs: number): Promise<number> {
  // A chunk is of a whole hour, which is over by then.
  return ledger.$executeRaw`
    DELETE FROM "LoadChunk" c USING (
      SELECT "hostId", detail, id FROM "LoadChunk"
      WHERE (detail = 'minute' AND "untilAt" < ${isoOf(nowMs - keptMs.minute - hourMs)}::timestamptz)
        OR (detail = 'hour' AND "untilAt" < ${isoOf(nowMs - keptMs.hour - hourMs)}::timestamptz)
      LIMIT ${batch.removed}) old
    WHERE c."hostId" = old."hostId" AND c.detail = old.detail AND c.id = old.id`;
}
