import { z } from 'zod';
import type { BalanceDecision } from '../../scheduler/balance/decision.ts';
import { readLatestLoads } from '../load/read-loads.ts';
import { inTransaction, type LedgerDeps } from '../transaction.ts';
import { releaseOffers } from './holds.ts';
import { starvedCpusOf } from './read-balance.ts';

const Left = z.strictObject({ left: z.int() });

export async function hasSettled({ ledger }: LedgerDeps, id: string): Promise<boolean> {
  const rows = await ledger.$queryRaw<unknown[]>`
    SELECT count(*)::int AS left FROM "BalanceMove" b JOIN "Migration" m ON m.id = b."migrationId"
    WHERE b."decisionId" = ${id} AND m."finishedAt" IS NULL`;
  return Left.parse(rows[0]).left === 0;
}

/**
 * Ends a decision with what is held for it, and with the effect as the hosts report it: how much less starves on the hosts of
 * its moves than before, which is divided among the moves as it was predicted of them. A move that was rolled back has none.
 */
export async function closeHelp(deps: LedgerDeps, id: string, problem: string | null): Promise<void> {
  const { ledger } = deps;
  const row = await ledger.balanceDecision.findUnique({ where: { id }, include: { moves: true } });
  if (row === null || row.endedAt !== null) return;
  const achieved = problem === null ? await achievedShare(deps, row) : null;
  await inTransaction(ledger, async (tx) => {
    const { count } = await tx.balanceDecision.updateMany({
      where: { id, endedAt: null },
      data: { state: 'ended', endedAt: new Date(deps.clock()), problem },
    });
    if (count === 0) return;
    await releaseOffers(tx, id);
    if (achieved === null) return;
    await tx.$executeRaw`
      UPDATE "BalanceMove" b SET "achievedCpus" = b."predictedCpus" * ${achieved}::float8
      FROM "Migration" m WHERE m.id = b."migrationId" AND m.state = 'succeeded' AND b."decisionId" = ${id}`;
  });
}

interface Closing {
  hostId: string;
  starvedCpus: number | null;
  decision: unknown;
  moves: { toId: string; predictedCpus: number }[];
}

/** The achieved effect as a part of the predicted one; null where it can't be known. */
async function achievedShare(deps: LedgerDeps, { hostId, starvedCpus, decision, moves }: Closing): Promise<number | null> {
  const predicted = moves.reduce((sum, one) => sum + one.predictedCpus, 0);
  if (starvedCpus === null || predicted <= 0) return null;
  const hosts = [...new Set([hostId, ...moves.map(({ toId }) => toId)])];
  const loads = await readLatestLoads(deps.ledger, hosts, deps.clock());
  const { atMs } = decision as BalanceDecision;
  // The samples of before the decision say nothing of its effect.
  if (loads.length < hosts.length || loads.some((one) => one.atMs <= atMs)) return null;
  const after = loads.reduce((sum, one) => sum + starvedCpusOf(one), 0);
  return (starvedCpus - after) / predicted;
}
