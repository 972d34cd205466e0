import { Prisma } from '../../generated/prisma/client.ts';

/**
 * What a lease costs on each host that it may use, as a JSON object: of the hosts whose providers have the offers that it was accepted
 * with. null: it pays by no offers, and may use every host. @param lease the row of "Lease"
 */
export const hostCostsOf = (
  lease: Prisma.Sql,
): Prisma.Sql => Prisma.sql`CASE WHEN ${lease}.market IS NULL THEN NULL ELSE COALESCE((
  SELECT jsonb_object_agg(h.id, f."hourMicros") FROM jsonb_to_recordset(${lease}.market->'offers') AS f(provider text, "hourMicros" numeric)
  JOIN "Host" h ON h.provider = f.provider AND h."removedAt" IS NULL), '{}') END`;
