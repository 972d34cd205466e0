import type { Transaction } from '../transaction.ts';

/**
 * Serializes an owner's acceptances of one kind to the end of the transaction, so that a bound on how many it has is
 * exact. An advisory lock and not the owner's row, which uploads hold.
 */
export async function lockOwner(tx: Transaction, kind: 'queue' | 'vms' | 'images', owner: string): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended('berth ' || ${kind} || ' ' || ${owner}, 0))`;
}
