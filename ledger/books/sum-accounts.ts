import type { Ledger } from '../client.ts';
import { inTransaction, type Transaction, type TransactionLimits } from '../transaction.ts';

/** So many entries are summed within a millisecond when a balance is read. */
const summedAt = 5000;

/** What exceeds a bigint stays unsummed, and is read entry by entry: a bound of speed, and not of what can be posted. */
const mostKept = 9n * 10n ** 18n;

const limits: TransactionLimits = { maxWait: 10_000, timeout: 60_000 };

/**
 * Adds the entries of accounts without a lower limit to their balances, so that reading one costs the same however many there
 * are. @returns how many accounts it has summed
 */
export async function sumAccounts(ledger: Ledger, most = summedAt): Promise<number> {
  const due = await ledger.$queryRaw<{ id: string }[]>`
    SELECT a.id FROM "Account" a WHERE a."lowerLimit" IS NULL
      AND EXISTS (SELECT FROM "Entry" e WHERE e."accountId" = a.id AND e.seq > a."summedTo" OFFSET ${most}) ORDER BY a.id`;
  for (const { id } of due) await inTransaction(ledger, (tx) => sumAccount(tx, id), limits);
  return due.length;
}

/**
 * The lock waits for the transactions that have taken a place among the account's entries, and keeps others from doing so: a
 * place below the last one would be left out for good.
 */
async function sumAccount(tx: Transaction, id: string): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(berth_account_lock(${id}))`;
  await tx.$executeRaw`
    UPDATE "Account" a SET balance = a.balance + s.total, "summedTo" = s.last
    FROM (SELECT sum(e.amount) AS total, max(e.seq) AS last FROM "Entry" e
      WHERE e."accountId" = ${id} AND e.seq > (SELECT "summedTo" FROM "Account" WHERE id = ${id})) s
    WHERE a.id = ${id} AND s.last IS NOT NULL AND a.balance + s.total BETWEEN ${-mostKept} AND ${mostKept}`;
}
