import { ledgerError } from '../ledger-error.ts';
import type { Transaction } from '../transaction.ts';

/**
 * Publishes an owner's images of one name to every owner, or withdraws them. Throws conflict while another owner's image of
 * that name is published, since a published name refers to one image.
 */
export async function publishImages(
  tx: Transaction,
  request: { owner: string; name: string; published: boolean; nowMs: number },
): Promise<void> {
  const { owner, name, published } = request;
  try {
    await tx.image.updateMany({
      where: { ownerId: owner, name, state: { in: ['building', 'ready'] }, publishedAt: published ? null : { not: null } },
      data: { publishedAt: published ? new Date(request.nowMs) : null },
    });
  } catch (error) {
    throw ledgerError(error) ?? error;
  }
}
