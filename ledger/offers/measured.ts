import type { MeasuredProvider } from '../../model/market/offer.ts';
import type { MarketSize } from '../../scheduler/market/match.ts';
import type { Transaction } from '../transaction.ts';

/** What a provider's hosts were seen to do over this time counts. */
const windowMs = 30 * 24 * 3_600_000;
/** How its VMs end by the fault of a host. */
const hostFaults = ['vm-lost', 'host-restarted', 'host-lost', 'promise-broken', 'boot-timeout'];

export interface SeenProvider extends MeasuredProvider {
  provider: string;
  /** null: no host of it is part of the site. */
  largest: MarketSize | null;
}

interface SeenRow extends MeasuredProvider {
  provider: string;
  largest: MarketSize | null;
}

/** What the site itself has recorded of providers: nobody's word. */
export async function readSeenProviders(
  tx: Transaction,
  providers: readonly string[],
  nowMs: number,
): Promise<Map<string, SeenProvider>> {
  const since = new Date(nowMs - windowMs);
  const rows = await tx.$queryRaw<SeenRow[]>`
    SELECT p.name AS provider,
      (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY l."leadMs") / 1000 FROM "Lease" l WHERE l."leadMs" IS NOT NULL AND l."startedAt" >= ${since}
        AND EXISTS (SELECT FROM "Vm" v JOIN "Host" h ON h.id = v."hostId" WHERE v."leaseId" = l.id AND h.provider = p.name))::float8 AS "bootS",
      m."moveS", m."mibPerS",
      (SELECT 1 - avg((v.problem->>'code' = ANY(${hostFaults}))::int) FROM (
        SELECT COALESCE(v.problem, '{"code": ""}') AS problem FROM "Vm" v JOIN "Host" h ON h.id = v."hostId"
        WHERE h.provider = p.name AND v."endedAt" >= ${since} AND v."leaseId" IS NOT NULL) v)::float8 AS reliability,
      (SELECT jsonb_build_object('vcpus', max(h.vcpus), 'memoryMiB', max(h."memoryMiB"), 'diskMiB', max(h."diskMiB"))
        FROM "Host" h WHERE h.provider = p.name AND h."removedAt" IS NULL HAVING count(*) > 0) AS largest
    FROM unnest(${[...providers]}::text[]) AS p(name) LEFT JOIN LATERAL (
      SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY s.seconds)::float8 AS "moveS",
        percentile_cont(0.5) WITHIN GROUP (ORDER BY s.bytes / 1048576.0 / s."transferS") FILTER (WHERE s."transferS" > 0)::float8 AS "mibPerS"
      FROM "Measurement" s WHERE s.kind IN ('live', 'copy') AND s.at >= ${since}
        AND EXISTS (SELECT FROM "Host" h WHERE h.id IN (s."fromId", s."toId") AND h.provider = p.name)) m ON TRUE`;
  return new Map(rows.map((row) => [row.provider, row]));
}
