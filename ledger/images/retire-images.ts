import { BerthError } from '../../model/errors.ts';
import type { ImageId } from '../../model/ids.ts';
import { ledgerError } from '../ledger-error.ts';
import type { Transaction } from '../transaction.ts';

export interface RetireRequest {
  /** null: the site's images. */
  owner: string | null;
  name: string;
  /** null: all images of the name. */
  digest: string | null;
  byOperator: boolean;
  nowMs: number;
}

export interface RetiredImages {
  /** Builds under way: their workflows have to be cancelled. */
  building: { id: ImageId; digest: string }[];
  /** Images that have to be swept from hosts and repository. */
  retired: ImageId[];
}

/**
 * Retires the images that a name refers to, all or none: no VM can be made from them any more. Builds that are under way
 * are cancelled. Throws not-found, and in-use while a VM was made from one of them or other owners may use it.
 */
export async function retireImages(tx: Transaction, request: RetireRequest): Promise<RetiredImages> {
  const { owner, name, digest } = request;
  const rows = await tx.$queryRaw<{ id: ImageId; digest: string; state: string; published: boolean }[]>`
    SELECT id, digest, state, "publishedAt" IS NOT NULL AS published FROM "Image"
    WHERE "ownerId" IS NOT DISTINCT FROM ${owner} AND name = ${name} AND state <> 'retired'
      AND (${digest}::text IS NULL OR digest = ${digest})
    ORDER BY id FOR UPDATE`;
  if (rows.length === 0) throw new BerthError('not-found', `There is no image ${name}${digest === null ? '' : ` ${digest}`}`);
  if (rows.some(({ published }) => published) && !request.byOperator)
    throw new BerthError('in-use', `The image ${name} is published; an operator has to take it back first`);
  const building = rows.filter(({ state }) => state === 'building');
  const rest = rows.filter(({ state }) => state !== 'building').map(({ id }) => id);
  await tx.image.updateMany({
    where: { id: { in: building.map(({ id }) => id) }, cancelRequestedAt: null },
    data: { cancelRequestedAt: new Date(request.nowMs) },
  });
  try {
    await tx.image.updateMany({ where: { id: { in: rest } }, data: { state: 'retired' } });
  } catch (error) {
    throw ledgerError(error) ?? error;
  }
  return { building: building.map(({ id, digest }) => ({ id, digest })), retired: rest };
}
