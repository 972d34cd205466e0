import { takesWork } from '../hosts/open-hosts.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import type { PlannedPromise } from './plan/admission.ts';
import { leadS, tailS } from './plan/lead-times.ts';

/**
 * Whether a promise that was planned from what was read a moment ago can be written now. It was planned beside all that ran
 * and was promised, so all that it relies on is capacity of its own hosts: each has to take its VMs beside all that counts
 * against it now, as if that never ended, and beside every promise of an overlapping time, with the longest lead and tail.
 * The caller holds the placement lock, under which nothing of this changes until its transaction ends.
 */
export async function stillFits(tx: Transaction, { hosts, each, fromMs, untilMs }: PlannedPromise): Promise<boolean> {
  const [from, until] = [isoOf(fromMs), isoOf(untilMs)];
  const rows = await tx.$queryRaw<{ fits: boolean }[]>`
    WITH wanted AS (SELECT host, count(*)::int AS vms FROM unnest(${[...hosts]}::text[]) AS host GROUP BY host),
    promised AS (
      SELECT p.host, sum(m.vcpus) AS vcpus, sum(m."memoryMiB") AS memory, sum(m."diskMiB" + m."overlayMiB") AS disk
      FROM "Lease" l, unnest(l."plannedHosts") AS p(host), LATERAL (SELECT vcpus, "memoryMiB", "diskMiB", "overlayMiB" FROM "Vm" WHERE "leaseId" = l.id LIMIT 1) m
      WHERE l."startAt" IS NOT NULL AND l."startedAt" IS NULL AND l."endedAt" IS NULL
        AND l."startAt" - ${leadS.most} * interval '1 second' < ${until}::timestamptz
        AND l."endAt" + ${tailS.most} * interval '1 second' > ${from}::timestamptz
        AND p.host IN (SELECT host FROM wanted)
      GROUP BY p.host
    )
    SELECT count(*) = (SELECT count(*) FROM wanted) AND COALESCE(bool_and(${takesWork}
        AND (h."vacantFrom" IS NULL OR h."vacantFrom" >= ${until}::timestamptz OR h."vacantUntil" <= ${from}::timestamptz)
        AND NOT EXISTS (SELECT FROM "Drain" d, jsonb_array_elements(d.plan->'moves') AS move
          WHERE d.state IN ('waiting', 'moving', 'paused') AND move->>'to' = h.id)
        AND h."usedVcpus" + COALESCE(p.vcpus, 0) + w.vms * ${each.vcpus}::int <= h.vcpus
        AND h."usedMemoryMiB" + COALESCE(p.memory, 0) + w.vms * ${each.memoryMiB}::int <= h."memoryMiB"
        AND h."usedDiskMiB" + COALESCE(p.disk, 0) + w.vms * ${each.diskMiB}::int <= h."diskMiB"), false) AS fits
    FROM wanted w JOIN "Host" h ON h.id = w.host LEFT JOIN promised p ON p.host = h.id`;
  return rows[0]!.fits;
}
