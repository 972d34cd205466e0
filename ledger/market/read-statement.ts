import { Prisma } from '../../generated/prisma/client.ts';
import type { Statement, StatementLine, StatementPart } from '../../model/money/statement.ts';
import { type EntryPlaces, findPlaces, settledAfterMs } from '../books/entry-marks.ts';
import type { Ledger } from '../client.ts';
import { oneOrNotFound } from '../rows.ts';
import { requestLimits, type Transaction } from '../transaction.ts';

/** Beyond so many lines the smallest are one: a page or a file is for people. */
const mostLines = 5000;
interface TotalRow {
  currency: string;
  opening: string;
  closing: string;
  held: string;
}

interface LineRow {
  currency: string;
  subject: string;
  reason: string;
  transfers: number;
  from: Date;
  until: Date;
  amount: string;
  /** Transfers of all lines, also of those beyond the limit. */
  all: number;
}

interface StatementRequest {
  owner: string;
  month: string;
  fromMs: number;
  untilMs: number;
  nowMs: number;
}

/**
 * An owner's money over a month: of its accounts and holds together, so that what is only set aside is no line. Both queries see one
 * snapshot. Throws not-found for an owner.
 */
export async function readStatement(ledger: Ledger, request: StatementRequest): Promise<Statement> {
  const { owner: id, month, fromMs, untilMs, nowMs } = request;
  const read = async (tx: Transaction): Promise<Statement> => {
    const owners = await tx.owner.findMany({ where: { id }, select: { id: true, name: true } });
    const owner = oneOrNotFound(owners, `owner ${id}`);
    const [from, until] = [new Date(fromMs), new Date(untilMs)];
    const places = await findPlaces(tx, { fromMs, untilMs });
    const totals = await tx.$queryRaw<TotalRow[]>`${moved(id, { from, until }, places)}
      SELECT currency, COALESCE(sum(amount) FILTER (WHERE at < ${from}::timestamptz), 0)::text AS opening, sum(amount)::text AS closing,
        COALESCE(sum(amount) FILTER (WHERE kind = 'hold'), 0)::text AS held
      FROM moved GROUP BY currency ORDER BY currency`;
    const lines = await tx.$queryRaw<LineRow[]>`${moved(id, { from, until }, places)}
      SELECT currency, subject, reason, count(DISTINCT transfer)::int AS transfers, min(at) AS "from", max(at) AS until,
        sum(amount)::text AS amount, (sum(count(DISTINCT transfer)) OVER ())::int AS "all"
      FROM moved WHERE at >= ${from}::timestamptz GROUP BY currency, subject, reason HAVING sum(amount) <> 0
      ORDER BY abs(sum(amount)) DESC, subject, reason LIMIT ${mostLines}`;
    const parts = totals.map((total) => partOf(total, lines, { from, until }));
    return { owner, month, final: nowMs >= untilMs + settledAfterMs, parts };
  };
  return ledger.$transaction(read, { ...requestLimits, isolationLevel: 'RepeatableRead' });
}

/**
 * Entries of the owner's accounts and of its holds until the end of the month; a hold that was closed before has none left. What is before
 * the month's places is one row for each account, its balance there: so a statement reads the entries of its month alone.
 */
const moved = (
  owner: string,
  { from, until }: { from: Date; until: Date },
  { after, upTo }: EntryPlaces,
): Prisma.Sql => Prisma.sql`
  WITH own AS (SELECT id, currency, kind FROM "Account"
    WHERE "ownerId" = ${owner} AND kind IN ('owner', 'hold') AND ("closedAt" IS NULL OR "closedAt" >= ${from}::timestamptz)),
  moved AS (SELECT o.currency, o.kind, NULL AS transfer, NULL AS subject, NULL AS reason, '-infinity'::timestamptz AS at, b.balance AS amount
    FROM own o CROSS JOIN LATERAL (SELECT balance FROM "Entry" WHERE "accountId" = o.id AND seq <= ${after} ORDER BY seq DESC LIMIT 1) b
    UNION ALL SELECT o.currency, o.kind, t.id, t.subject, t.reason, t."createdAt", e.amount
    FROM own o JOIN "Entry" e ON e."accountId" = o.id AND e.seq > ${after} AND e.seq <= ${upTo} JOIN "Transfer" t ON t.id = e."transferId"
    WHERE t."createdAt" < ${until}::timestamptz)`;

function partOf(total: TotalRow, rows: readonly LineRow[], { from, until }: { from: Date; until: Date }): StatementPart {
  const lines = rows
    .filter(({ currency }) => currency === total.currency)
    .map(
      ({ amount, all, from: first, until: last, ...same }): StatementLine => ({
        ...same,
        from: first.toISOString(),
        until: last.toISOString(),
        amountMicros: BigInt(amount),
      }),
    )
    .toSorted((a, b) => (a.from === b.from ? (a.subject < b.subject ? -1 : 1) : a.from < b.from ? -1 : 1));
  const [openingMicros, closingMicros] = [BigInt(total.opening), BigInt(total.closing)];
  const rest = closingMicros - openingMicros - lines.reduce((sum, { amountMicros }) => sum + amountMicros, 0n);
  const further: StatementLine[] =
    rows.length < mostLines || rest === 0n
      ? []
      : [
          {
            currency: total.currency,
            subject: '',
            reason: 'further, smaller ones',
            transfers: rows[0]!.all - rows.reduce((sum, { transfers }) => sum + transfers, 0),
            from: from.toISOString(),
            until: until.toISOString(),
            amountMicros: rest,
          },
        ];
  return {
    currency: total.currency,
    openingMicros,
    closingMicros,
    heldMicros: BigInt(total.held),
    lines: [...lines, ...further],
  };
}
