import type { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId } from '../../model/ids.ts';
import { ledgerError } from '../ledger-error.ts';

export interface RetireRequest {
  /** Whose images; null: the site's. */
  owner: string | null;
  name: string;
  /** One of them alone. */
  digest: string | null;
  byOperator: boolean;
  nowMs: number;
}

export interface RetiredImages {
  /** To be cancelled: their workflows end them. */
  building: { id: ImageId; digest: string }[];
  /** To be swept from hosts and repository. */
  retired: ImageId[];
}

/**
 * Retires what a name stands for, whole or not at all: nobody can make a VM from it any more. Builds that are under way
 * are cancelled. Throws not-found, and in-use while a VM was made from one of them or other owners may use it.
 */
export async function retireImages(tx: Prisma.TransactionClient, order: RetireRequest): Promise<RetiredImages> {
  const { owner, name, digest } = order;
  const rows = await tx.$queryRaw<{ id: ImageId; digest: string; state: string; published: boolean }[]>`
    SELECT id, digest, state, "publishedAt" IS NOT NULL AS published FROM "Image"
    WHERE "ownerId" IS NOT DISTINCT FROM ${owner} AND name = ${name} AND state <> 'retired'
      AND (${digest}::text IS NULL OR digest = ${digest})
    ORDER BY id FOR UPDATE`;
  if (rows.length === 0) throw new BerthError('not-found', `There is no image ${name}${digest === null ? '' : ` ${digest}`}`);
  if (rows.some(({ published }) => published) && !order.byOperator)
    throw new BerthError('in-use', `The image ${name} is published; an operator has to take it back first`);
  const building = rows.filter(({ state }) => state === 'building');
  const rest = rows.filter(({ state }) => state !== 'building').map(({ id }) => id);
  await tx.image.updateMany({
    where: { id: { in: building.map(({ id }) => id) }, cancelRequestedAt: null },
    data: { cancelRequestedAt: new Date(order.nowMs) },
  });
  try {
    await tx.image.updateMany({ where: { id: { in: rest } }, data: { state: 'retired' } });
  } catch (error) {
    throw ledgerError(error) ?? error;
  }
  return { building: building.map(({ id, digest: of }) => ({ id, digest: of })), retired: rest };
}
