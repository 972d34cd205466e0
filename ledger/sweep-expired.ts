import { Prisma } from '../generated/prisma/client.ts';
import { secondsAgo } from './housekeeping.ts';
import type { LedgerDeps } from './transaction.ts';

const hourS = 3600;
/** For how long a repeated POST gets its first answer. */
const idempotencyS = 24 * hourS;
/** Longer than any upload lasts; the API removes its own sooner, with their bytes. */
const uploadS = 48 * hourS;

/** Rows that one statement removes, and how many of them a sweep: the next one takes the rest. */
const batch = 5000;
const mostBatches = 20;

/** Removes expired idempotency keys, abandoned uploads and quotes that nobody has used, the oldest first; returns the number of rows. */
export async function sweepExpiredRows(deps: LedgerDeps): Promise<number> {
  const uploading = Prisma.sql`state = 'uploading' AND`;
  return (
    (await removeBefore(deps, Prisma.sql`"Idempotency"`, Prisma.empty, secondsAgo(deps, idempotencyS))) +
    (await removeBefore(deps, Prisma.sql`"File"`, uploading, secondsAgo(deps, uploadS))) +
    (await removeQuotes(deps))
  );
}

async function removeBefore({ ledger }: LedgerDeps, table: Prisma.Sql, filter: Prisma.Sql, before: Date): Promise<number> {
  let rows = 0;
  for (let done = 0; done < mostBatches; done += 1) {
    const removed = await ledger.$executeRaw`
      DELETE FROM ${table} WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM ${table} WHERE ${filter} "createdAt" < ${before} ORDER BY "createdAt" LIMIT ${batch} FOR UPDATE SKIP LOCKED))`;
    rows += removed;
    if (removed < batch) break;
  }
  return rows;
}

/** Quotes that have expired, but for those by which something was accepted. */
async function removeQuotes(deps: LedgerDeps): Promise<number> {
  return deps.ledger.$executeRaw`
    DELETE FROM "Quote" q WHERE q.id IN (
      SELECT o.id FROM "Quote" o WHERE o."expiresAt" < ${secondsAgo(deps, hourS)}
        AND NOT EXISTS (SELECT FROM "Bill" b WHERE b."quoteId" = o.id) ORDER BY o."expiresAt" LIMIT ${batch})`;
}
