import type { Transaction } from '../transaction.ts';

/**
 * Serializes the accepts of one owner to the end of the transaction, so that bounds on what the owner has are exact.
 * @param kind what is bounded; accepts of different kinds do not wait for each other
 */
export async function lockOwner(
  tx: Transaction,
  kind: 'vms' | 'images' | 'quotas' | 'keys' | 'tree',
  owner: string,
): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(hashtextextended(${`berth ${kind} ${owner}`}, 0))`;
}
