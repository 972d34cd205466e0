import type { Transaction } from '../transaction.ts';

/**
 * After this without a renewal another edge may have the public addresses. Above the lifetime that they have in an edge's kernel
 * (drivers/network/public-addresses.ts) by what an answer may be late (workers/edge/follow-orders.ts).
 */
export const edgeLeaseMs = 3000;

/**
 * Renews the lease of the edge that has it, or takes one that has ended. By the database's clock, which all API processes
 * share.
 * @returns its number, which grows with each holder; null: another edge has it
 */
export async function renewEdgeLease(tx: Transaction, edge: string): Promise<number | null> {
  const rows = await tx.$queryRaw<{ epoch: number }[]>`
    INSERT INTO "EdgeLease" (row, "edgeId", epoch, until) VALUES (1, ${edge}, 1, clock_timestamp() + ${edgeLeaseMs} * interval '1 ms')
    ON CONFLICT (row) DO UPDATE SET "edgeId" = EXCLUDED."edgeId", until = EXCLUDED.until,
      epoch = "EdgeLease".epoch + CASE WHEN "EdgeLease"."edgeId" = EXCLUDED."edgeId" THEN 0 ELSE 1 END
    WHERE "EdgeLease"."edgeId" = EXCLUDED."edgeId" OR "EdgeLease".until < clock_timestamp()
    RETURNING epoch`;
  return rows[0]?.epoch ?? null;
}
