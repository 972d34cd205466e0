import type { Transaction } from '../transaction.ts';

/**
 * Takes the lock under which VMs are placed and released, and leases are promised, to the end of the transaction. So each
 * transaction sees everything that the one before it did, and the hosts' rows are never locked in opposite orders.
 */
export async function lockPlacement(tx: Transaction): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(7305, 2)`;
}
