import { Prisma } from '../../generated/prisma/client.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId } from '../../model/ids.ts';
import type { Transaction } from '../transaction.ts';

interface FoundImage {
  id: ImageId;
  name: string;
  digest: string;
  virtualMiB: number;
  /** Size of the parts that a host has to fetch. */
  sizeMiB: number;
  cmdline: string;
  parts: Record<string, unknown>;
}

/** Images that an owner may use: its own, the site's, and those that an operator has published; for Prisma and in SQL. */
const usable = (owner: string) => [
  { where: { ownerId: owner }, sql: Prisma.sql`"ownerId" = ${owner}` },
  { where: { ownerId: null }, sql: Prisma.sql`"ownerId" IS NULL` },
  { where: { publishedAt: { not: null } }, sql: Prisma.sql`"publishedAt" IS NOT NULL` },
];

export const usableBy = (owner: string) => ({ OR: usable(owner).map(({ where }) => where) });

/**
 * The image that a name refers to: the owner's own before a published one, and of each the one that was named last. It is
 * locked against retirement to the end of the caller's transaction. Throws image-unknown.
 * @param pointer of the request's field with the name
 * @param more further columns to read with the row "Image" i
 */
export async function findImage<M extends object>(
  tx: Transaction,
  owner: string,
  name: string,
  pointer: string,
  more: Prisma.Sql = Prisma.empty,
): Promise<FoundImage & M> {
  const mayUse = Prisma.join(
    usable(owner).map(({ sql }) => sql),
    ' OR ',
  );
  const [found] = await tx.$queryRaw<(FoundImage & M)[]>`
    SELECT id, name, digest, "virtualMiB", "sizeBytes"::float8 / 1048576 AS "sizeMiB", cmdline, parts ${more} FROM "Image" i
    WHERE name = ${name} AND state = 'ready' AND (${mayUse})
    ORDER BY ("ownerId" IS NOT DISTINCT FROM ${owner}) DESC, "namedAt" DESC, id DESC LIMIT 1 FOR SHARE`;
  if (found === undefined)
    throw new BerthError(
      'image-unknown',
      `No image named ${JSON.stringify(name)} is ready; GET /v1/images lists those that are`,
      { fields: [{ pointer, detail: `no ready image is named ${JSON.stringify(name)}` }] },
    );
  return found;
}
