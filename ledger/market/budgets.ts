import { budgetReachedType } from '../../model/books/budget-event.ts';
import { BerthError } from '../../model/errors.ts';
import { monthInterval, monthOf } from '../../model/money/statement.ts';
import { findPlaces } from '../books/entry-marks.ts';
import type { Ledger } from '../client.ts';
import { writeEvent } from '../events/write-event.ts';
import { inTransaction, isoOf, requestLimits, type Transaction } from '../transaction.ts';

/** What an owner means to spend in a month, of one currency. It refuses nothing. */
export interface BudgetRecord {
  ownerId: string;
  currency: string;
  monthlyMicros: bigint;
  /** Per cent, ascending: at each of them the owner is told. */
  thresholds: number[];
  /** What was charged in the month. */
  month: string;
  spentMicros: bigint;
}

/** Of one that was not charged since, in a month that is over. */
const inMonth = (row: BudgetRecord, month: string): BudgetRecord =>
  row.month === month ? row : { ...row, month, spentMicros: 0n };

/** @param owner whose; null: every owner's */
export async function readBudgets(ledger: Ledger, owner: string | null, nowMs: number): Promise<BudgetRecord[]> {
  const rows = await ledger.budget.findMany({
    where: owner === null ? {} : { ownerId: owner },
    orderBy: [{ ownerId: 'asc' }, { currency: 'asc' }],
    take: 1000,
  });
  return rows.map((row) => inMonth(row, monthOf(nowMs)));
}

interface BudgetOrder {
  owner: string;
  currency: string;
  monthlyMicros: bigint;
  thresholds: number[];
  nowMs: number;
}

/** Sets a budget; what was charged in this month before counts, and the thresholds that it has reached are told. */
export async function changeBudget(ledger: Ledger, order: BudgetOrder): Promise<BudgetRecord> {
  const { owner, currency, monthlyMicros, thresholds, nowMs } = order;
  const month = monthOf(nowMs);
  const key = { ownerId_currency: { ownerId: owner, currency } };
  const given = { monthlyMicros, thresholds: thresholds.toSorted((a, b) => a - b), month, toldPercent: 0 };
  const work = async (tx: Transaction): Promise<BudgetRecord> => {
    await tx.budget.upsert({ where: key, create: { ownerId: owner, currency, ...given }, update: given });
    // Charges wait for the row from here on, and add to what is read.
    const spentMicros = await chargedIn(tx, owner, currency, month);
    await tx.budget.update({ where: key, data: { spentMicros } });
    await noteSpending(tx, { ownerId: owner, currency }, 0n, nowMs);
    return tx.budget.findUniqueOrThrow({ where: key });
  };
  return inTransaction(ledger, work, requestLimits);
}

async function chargedIn(tx: Transaction, owner: string, currency: string, month: string): Promise<bigint> {
  const { fromMs, untilMs } = monthInterval(month)!;
  const { after } = await findPlaces(tx, { fromMs, untilMs });
  const rows = await tx.$queryRaw<{ spent: string }[]>`
    SELECT COALESCE(-sum(e.amount), 0)::text AS spent
    FROM "Account" a JOIN "Entry" e ON e."accountId" = a.id AND e.seq > ${after} JOIN "Transfer" t ON t.id = e."transferId"
    WHERE a."ownerId" = ${owner} AND a.currency = ${currency} AND a.kind IN ('owner', 'hold') AND t.kind <> 'adjustment'
      AND (a."closedAt" IS NULL OR a."closedAt" >= ${new Date(fromMs)}::timestamptz)
      AND t."createdAt" >= ${new Date(fromMs)}::timestamptz AND t."createdAt" < ${new Date(untilMs)}::timestamptz`;
  return BigInt(rows[0]!.spent);
}

/** Throws not-found. */
export async function changeBudgetRemoved(ledger: Ledger, owner: string, currency: string): Promise<void> {
  const { count } = await ledger.budget.deleteMany({ where: { ownerId: owner, currency } });
  if (count === 0) throw new BerthError('not-found', `There is no budget of ${currency}`);
}

/** A budget after a charge. */
export interface SpentBudget {
  spentMicros: bigint;
  monthlyMicros: bigint;
  thresholds: number[];
  toldPercent: number;
  alerts: number;
}

interface Payer {
  ownerId: string;
  currency: string;
}

/**
 * Adds to what an owner has spent in the month, in the transaction of the charge, and tells the thresholds that it reaches. Costs one
 * statement where there is no budget.
 */
export async function noteSpending(tx: Transaction, { ownerId, currency }: Payer, micros: bigint, nowMs: number): Promise<void> {
  const rows = await tx.$queryRaw<SpentBudget[]>`
    SELECT "spentMicros", "monthlyMicros", thresholds, "toldPercent", alerts
    FROM berth_note_spending(${ownerId}, ${currency}, ${micros}::bigint, ${monthOf(nowMs)})`;
  await tellThresholds(tx, { ownerId, currency }, rows[0], nowMs);
}

/** Tells the thresholds that the charge has reached, each once a month. */
export async function tellThresholds(
  tx: Transaction,
  { ownerId, currency }: Payer,
  budget: SpentBudget | undefined,
  nowMs: number,
): Promise<void> {
  if (budget === undefined) return;
  const month = monthOf(nowMs);
  const { spentMicros, monthlyMicros, thresholds, toldPercent, alerts } = budget;
  const reached = thresholds.filter((percent) => percent > toldPercent && spentMicros * 100n >= monthlyMicros * BigInt(percent));
  if (reached.length === 0) return;
  await tx.budget.update({
    where: { ownerId_currency: { ownerId, currency } },
    data: { toldPercent: Math.max(...reached), alerts: { increment: reached.length } },
  });
  for (const [index, percent] of reached.entries()) {
    const at = isoOf(nowMs);
    const data = {
      owner: ownerId,
      currency,
      month,
      percent,
      monthlyMicros: String(monthlyMicros),
      spentMicros: String(spentMicros),
      at,
    };
    const event = { subject: `${ownerId}/${currency}`, owner: ownerId, time: at, n: alerts + index + 1 };
    await writeEvent(tx, { type: budgetReachedType, ...event, data }, 'reject');
  }
}
