import type { FocusCharge } from '../../model/money/focus.ts';
import { findPlaces } from '../books/entry-marks.ts';
import type { Ledger } from '../client.ts';
import { oneOrNotFound } from '../rows.ts';

const dayMs = 86_400_000;

interface ChargeRow extends Omit<FocusCharge, 'dayMs' | 'amountMicros'> {
  amount: string;
}

/** Throws not-found. */
export async function readFocusOwner(ledger: Ledger, id: string): Promise<{ id: string; name: string }> {
  return oneOrNotFound(await ledger.owner.findMany({ where: { id }, select: { id: true, name: true } }), `owner ${id}`);
}

/**
 * What an owner was charged on each day of a month, by subject and who was paid: the other side of the entries of its accounts and
 * holds, without adjustments. A day at a time, so that a month of any size is read in parts.
 */
export async function* readFocusCharges(
  ledger: Ledger,
  { owner, fromMs, untilMs }: { owner: string; fromMs: number; untilMs: number },
): AsyncGenerator<FocusCharge[]> {
  for (let day = fromMs; day < untilMs; day += dayMs) {
    const charges = await readDay(ledger, owner, day);
    if (charges.length > 0) yield charges;
  }
}

async function readDay(ledger: Ledger, owner: string, day: number): Promise<FocusCharge[]> {
  const { after, upTo } = await findPlaces(ledger, { fromMs: day, untilMs: day + dayMs });
  const [from, until] = [new Date(day), new Date(day + dayMs)];
  const rows = await ledger.$queryRaw<ChargeRow[]>`
    SELECT p.currency, t.subject, t.reason, p.kind::text AS kind, p.holder, p.name, sum(e.amount)::text AS amount
    FROM "Transfer" t JOIN "Entry" e ON e."transferId" = t.id JOIN "Account" p ON p.id = e."accountId" AND p.kind NOT IN ('owner', 'hold')
    WHERE t.kind <> 'adjustment' AND t."createdAt" >= ${from}::timestamptz AND t."createdAt" < ${until}::timestamptz AND t.id IN (
      SELECT o."transferId" FROM "Account" a JOIN "Entry" o ON o."accountId" = a.id AND o.seq > ${after} AND o.seq <= ${upTo}
      WHERE a."ownerId" = ${owner} AND a.kind IN ('owner', 'hold') AND (a."closedAt" IS NULL OR a."closedAt" >= ${from}::timestamptz))
    GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(e.amount) <> 0 ORDER BY 1, 2, 3, 4, 5, 6`;
  return rows.map(({ amount, ...row }) => ({ ...row, dayMs: day, amountMicros: BigInt(amount) }));
}
