import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { Ledger } from '../client.ts';
import { type PageRequest, pageQuery } from '../page.ts';

const withMoves = { moves: { orderBy: { vmId: 'asc' } } } as const;

/** A decision, and the moves that it began. */
export type DecisionRecord = Prisma.BalanceDecisionGetPayload<{ include: typeof withMoves }>;

/** A page and one row more, newest first. */
export async function readDecisions(ledger: Ledger, host: string | undefined, page: PageRequest): Promise<DecisionRecord[]> {
  return ledger.balanceDecision.findMany({ ...pageQuery(page, { hostId: host }), include: withMoves });
}

/** Throws not-found. */
export async function findDecision(ledger: Ledger, id: string): Promise<DecisionRecord> {
  const row = await ledger.balanceDecision.findUnique({ where: { id }, include: withMoves });
  if (row === null) throw new BerthError('not-found', `There is no decision ${id}`);
  return row;
}

/** For how long decisions are kept. */
const keptMs = 30 * 86_400_000;
const removedAtOnce = 1000;

/** Removes old decisions, a bounded number of them. Their moves go with them. */
export async function removeOldDecisions(ledger: Ledger, nowMs: number): Promise<number> {
  return ledger.$executeRaw`
    DELETE FROM "BalanceDecision" WHERE id IN (
      SELECT id FROM "BalanceDecision" WHERE "createdAt" < ${new Date(nowMs - keptMs)} AND "endedAt" IS NOT NULL ORDER BY "createdAt" LIMIT ${removedAtOnce})`;
}

/** Of the decisions that are kept. */
export interface BalanceCounts {
  states: { state: string; rows: number }[];
  predictedCpus: number;
  achievedCpus: number;
}

/** The gains are of moves whose effect was measured. */
export async function readBalanceCounts(ledger: Ledger): Promise<BalanceCounts> {
  const states = await ledger.$queryRaw<BalanceCounts['states']>`
    SELECT state::text, count(*)::int AS rows FROM "BalanceDecision" GROUP BY state`;
  const sums = await ledger.balanceMove.aggregate({
    where: { achievedCpus: { not: null } },
    _sum: { predictedCpus: true, achievedCpus: true },
  });
  return { states, predictedCpus: sums._sum.predictedCpus ?? 0, achievedCpus: sums._sum.achievedCpus ?? 0 };
}
