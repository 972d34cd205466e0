import { isoOf, type Transaction } from '../transaction.ts';

/** Releases what is held for a decision, but for offers that were taken: their migrations take those over. */
export async function releaseOffers(tx: Transaction, decision: string): Promise<void> {
  await tx.$executeRaw`DELETE FROM "MoveHold" WHERE "decisionId" = ${decision} AND "migrationId" IS NULL`;
}

/** A migration reserves now what was held for it. The caller holds the placement lock. */
export async function releaseHoldOf(tx: Transaction, migration: string): Promise<void> {
  await tx.$executeRaw`DELETE FROM "MoveHold" WHERE "migrationId" = ${migration}`;
}

/** Holds of decisions that nothing has ended in time, whatever became of their workflows. Returns how many. */
export async function releaseExpiredHolds(tx: Transaction, nowMs: number): Promise<number> {
  return tx.$executeRaw`DELETE FROM "MoveHold" WHERE "expiresAt" < ${isoOf(nowMs)}::timestamptz`;
}
