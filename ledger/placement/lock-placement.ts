import type { Transaction } from '../transaction.ts';

/**
 * Takes the lock under which VMs are placed and released, and leases are promised, to the end of the transaction. So each
 * transaction sees everything that the one before it did, and the hosts' rows are never locked in opposite orders.
 */
export async function lockPlacement(tx: Transaction): Promise<void> {
  await tx.$executeRaw`SELECT pg_advisory_xact_lock(7305, 2)`;
}

/** Takes the same lock where nobody has it. */
export async function tryPlacementLock(tx: Transaction): Promise<boolean> {
  const rows = await tx.$queryRaw<{ taken: boolean }[]>`SELECT pg_try_advisory_xact_lock(7305, 2) AS taken`;
  return rows[0]!.taken;
}
