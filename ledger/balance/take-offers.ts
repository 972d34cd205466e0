import { z } from 'zod';
import type { DrainMove } from '../../model/drain.ts';
import type { VmId } from '../../model/ids.ts';
import type { BalanceDecision } from '../../scheduler/balance/decision.ts';
import { tryAcceptMigration } from '../migrations/accept-migration.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, isoOf, type LedgerDeps, type Transaction } from '../transaction.ts';
import { releaseExpiredHolds, releaseOffers } from './holds.ts';
import { writeDecided } from './open-help.ts';

const Hold = z.strictObject({ vmId: z.string(), hostId: z.string(), predictedCpus: z.number() });
const Move = z.strictObject({ migration: z.string(), vm: z.string(), generation: z.int() });

/**
 * Takes the best offer that is left for each VM, in one transaction: the migration's row, the move's, and the offer, which is kept
 * for the migration until that reserves. Other offers are released. A VM that can't migrate at this moment stays.
 */
export async function takeOffers(deps: LedgerDeps, id: string): Promise<DrainMove[]> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const row = await tx.balanceDecision.findUnique({ where: { id } });
    if (row === null) return [];
    if (row.state !== 'open') return readMoves(tx, id);
    const nowMs = deps.clock();
    const decision = row.decision as unknown as BalanceDecision;
    await releaseExpiredHolds(tx, nowMs);
    const holds = z.array(Hold).parse(
      await tx.$queryRaw<unknown[]>`
        SELECT "vmId", "hostId", "predictedCpus" FROM "MoveHold" WHERE "decisionId" = ${id} ORDER BY rank, "vmId", "hostId"`,
    );
    const taken = new Map<string, { move: DrainMove; to: string }>();
    for (const { vmId, hostId, predictedCpus } of holds) {
      if (taken.has(vmId)) continue;
      const move = await takeOffer(tx, { id, vmId, hostId, from: row.hostId, predictedCpus, nowMs });
      if (move !== null) taken.set(vmId, { move, to: hostId });
    }
    await releaseOffers(tx, id);
    const moves = [...taken.values()];
    const isMoving = moves.length > 0;
    await tx.balanceDecision.update({
      where: { id },
      data: isMoving
        ? { state: 'moving' }
        : { state: 'ended', endedAt: new Date(nowMs), problem: 'no offer could be taken any more' },
    });
    const begun = moves.map(({ move, to }) => ({ vm: move.vm, to, migration: move.migration }));
    if (isMoving) await writeDecided(tx, id, decision, row.mode, nowMs, begun);
    return moves.map(({ move }) => move);
  });
}

interface Taken {
  id: string;
  vmId: string;
  hostId: string;
  from: string;
  predictedCpus: number;
  nowMs: number;
}

async function takeOffer(tx: Transaction, { id, vmId, hostId, from, predictedCpus, nowMs }: Taken): Promise<DrainMove | null> {
  const here = await tx.vm.count({ where: { id: vmId, hostId: from, state: 'running', pinned: false } });
  if (here === 0) return null;
  const reason = `host ${from} asked for help; GET /v1/balancer/decisions/${id}`;
  const request = { vm: vmId, to: hostId, mode: 'live' as const, coldFallback: false, requestedBy: id, reason, nowMs };
  const move = await tryAcceptMigration(tx, request);
  if (move === null) return null;
  await tx.$executeRaw`
    UPDATE "MoveHold" SET "migrationId" = ${move.migration} WHERE "decisionId" = ${id} AND "vmId" = ${vmId} AND "hostId" = ${hostId}`;
  await tx.$executeRaw`
    INSERT INTO "BalanceMove" ("decisionId", "vmId", "fromId", "toId", "migrationId", "predictedCpus", at)
    VALUES (${id}, ${vmId}, ${from}, ${hostId}, ${move.migration}, ${predictedCpus}::float8, ${isoOf(nowMs)}::timestamptz)`;
  return move;
}

/** The moves of a decision that was taken before: its step is repeated. */
async function readMoves(tx: Transaction, id: string): Promise<DrainMove[]> {
  const rows = await tx.$queryRaw<unknown[]>`
    SELECT m.id AS migration, m."vmId" AS vm, m.generation FROM "BalanceMove" b JOIN "Migration" m ON m.id = b."migrationId"
    WHERE b."decisionId" = ${id} ORDER BY m.id`;
  return z
    .array(Move)
    .parse(rows)
    .map((move) => ({ ...move, migration: move.migration as DrainMove['migration'], vm: move.vm as VmId }));
}
