import { Prisma } from '../../generated/prisma/client.ts';
import type { Ledger } from '../client.ts';
import type { Transaction } from '../transaction.ts';

/** What is wrong with the books: the kind of rule that is broken, and what breaks it. */
export interface BookProblem {
  kind: keyof typeof rules;
  /** Of a transfer or an account; of a currency where the whole is wrong. */
  id: string;
  detail: string;
}

export interface BooksReport {
  accounts: number;
  transfers: number;
  entries: number;
  /** All that were found. */
  problems: number;
  /** The first of each kind. */
  found: BookProblem[];
}

/** Of each kind so many are reported. */
const shown = 100;
/** All entries are read: some seconds for ten millions. */
const limits = { maxWait: 20_000, timeout: 10 * 60_000, isolationLevel: Prisma.TransactionIsolationLevel.RepeatableRead };

/**
 * The rules of the books, each with the query of what breaks it. Most are constraints as well (the migration of the books):
 * this is the proof that they have held, also through restores, repairs by hand and defects of the disk.
 */
const rules = {
  unbalanced: Prisma.sql`
    SELECT t.id, 'its entries sum to ' || sum(e.amount) || ' micro-units of ' || e.currency AS detail
    FROM "Transfer" t JOIN "Entry" e ON e."transferId" = t.id GROUP BY t.id, e.currency HAVING sum(e.amount) <> 0`,
  incomplete: Prisma.sql`
    SELECT t.id, 'it has ' || count(e."accountId") || ' entries of ' || t.postings AS detail
    FROM "Transfer" t LEFT JOIN "Entry" e ON e."transferId" = t.id GROUP BY t.id HAVING count(e."accountId") <> t.postings`,
  orphan: Prisma.sql`
    SELECT e."transferId" AS id, 'it has an entry of ' || e.amount || ' micro-units for account ' || e."accountId" ||
      CASE WHEN t.id IS NULL THEN ', and is not there' ELSE ', which is not there' END AS detail
    FROM "Entry" e LEFT JOIN "Transfer" t ON t.id = e."transferId" LEFT JOIN "Account" a ON a.id = e."accountId"
    WHERE t.id IS NULL OR a.id IS NULL`,
  currency: Prisma.sql`
    SELECT a.id, 'it has ' || a.currency || ', and an entry of ' || e.currency || ' by transfer ' || e."transferId" AS detail
    FROM "Entry" e JOIN "Account" a ON a.id = e."accountId" WHERE e.currency <> a.currency`,
  balance: Prisma.sql`
    SELECT a.id, 'its balance is ' || a.balance || ' micro-units, and its entries sum to ' || COALESCE(s.total, 0) AS detail
    FROM "Account" a LEFT JOIN (
      SELECT e."accountId", sum(e.amount) AS total FROM "Entry" e JOIN "Account" o ON o.id = e."accountId"
      WHERE o."lowerLimit" IS NOT NULL OR e.seq <= o."summedTo" GROUP BY 1) s ON s."accountId" = a.id
    WHERE a.balance <> COALESCE(s.total, 0)`,
  history: Prisma.sql`
    SELECT "accountId" AS id, 'after transfer ' || "transferId" || ' it had ' || COALESCE(balance::text, 'no balance') ||
      ' by that entry, and ' || total || ' by the entries until then' AS detail
    FROM (SELECT e.*, sum(e.amount) OVER (PARTITION BY e."accountId" ORDER BY e.seq) AS total
      FROM "Entry" e JOIN "Account" a ON a.id = e."accountId" WHERE a."lowerLimit" IS NOT NULL) h
    WHERE balance IS DISTINCT FROM total`,
  limit: Prisma.sql`
    SELECT id, 'its balance is ' || balance || ' micro-units, below its limit of ' || "lowerLimit" AS detail
    FROM "Account" WHERE balance < "lowerLimit"`,
  closed: Prisma.sql`
    SELECT id, 'it is closed, and has ' || balance || ' micro-units' AS detail
    FROM "Account" WHERE "closedAt" IS NOT NULL AND balance <> 0`,
  sum: Prisma.sql`
    SELECT currency AS id, 'all balances sum to ' || sum(total) || ' micro-units' AS detail
    FROM (SELECT currency, sum(balance) AS total FROM "Account" GROUP BY 1
      UNION ALL SELECT a.currency, sum(e.amount) FROM "Entry" e JOIN "Account" a ON a.id = e."accountId"
        WHERE a."lowerLimit" IS NULL AND e.seq > a."summedTo" GROUP BY 1) b
    GROUP BY 1 HAVING sum(total) <> 0`,
} as const;

/** Holds the books to their rules, all in one snapshot: what is posted meanwhile is in it whole or not at all. */
export async function verifyBooks(ledger: Ledger): Promise<BooksReport> {
  return ledger.$transaction(verify, limits);
}

async function verify(tx: Transaction): Promise<BooksReport> {
  const counts = await tx.$queryRaw<{ accounts: number; transfers: number; entries: number }[]>`
    SELECT (SELECT count(*) FROM "Account")::float8 AS accounts, (SELECT count(*) FROM "Transfer")::float8 AS transfers,
      (SELECT count(*) FROM "Entry")::float8 AS entries`;
  const report: BooksReport = { ...counts[0]!, problems: 0, found: [] };
  for (const kind of Object.keys(rules) as (keyof typeof rules)[]) {
    const rows = await tx.$queryRaw<{ id: string; detail: string; count: number }[]>`
      SELECT id, detail, (count(*) OVER ())::float8 AS count FROM (${rules[kind]}) broken ORDER BY id, detail LIMIT ${shown}`;
    report.problems += rows[0]?.count ?? 0;
    report.found.push(...rows.map(({ id, detail }) => ({ kind, id, detail })));
  }
  return report;
}
