import type { Prisma } from '../../generated/prisma/client.ts';
import { ledgerError } from '../ledger-error.ts';

/**
 * Gives what one owner's name stands for to every owner, or takes it back. Throws conflict while another owner's image of
 * that name is published: a name means one thing to everybody.
 */
export async function publishImages(
  tx: Prisma.TransactionClient,
  order: { owner: string; name: string; published: boolean; nowMs: number },
): Promise<void> {
  const { owner, name, published } = order;
  try {
    await tx.image.updateMany({
      where: { ownerId: owner, name, state: { in: ['building', 'ready'] }, publishedAt: published ? null : { not: null } },
      data: { publishedAt: published ? new Date(order.nowMs) : null },
    });
  } catch (error) {
    throw ledgerError(error) ?? error;
  }
}
