import type { Prisma } from '../../generated/prisma/client.ts';

/**
 * Takes the lock under which VMs are placed and freed, and promises are made, to the end of the transaction. One at a
 * time: each sees all that the one before it did, and the hosts' rows are never locked crosswise.
 */
export async function lockPlacement(tx: Prisma.TransactionClient): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(7305, 2)`;
}
