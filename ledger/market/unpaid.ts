import { Prisma } from '../../generated/prisma/client.ts';
import type { Transaction } from '../transaction.ts';

/** Whether the VMs of a lease were suspended because its money had ended: they run again when its account has filled the hold. */
export async function isUnpaid(tx: Transaction, lease: string | null): Promise<boolean> {
  if (lease === null) return false;
  return (await tx.bill.count({ where: { leaseId: lease, suspendedAt: { not: null }, endedAt: null } })) > 0;
}

/** The row `l` of "Lease" is of work that lies suspended, and is not resumed, because its money has ended. */
export const liesUnpaid = Prisma.sql`(l.suspension IS NOT DISTINCT FROM 'suspended' AND EXISTS (
  SELECT FROM "Bill" b WHERE b."leaseId" = l.id AND b."suspendedAt" IS NOT NULL AND b."endedAt" IS NULL))`;
