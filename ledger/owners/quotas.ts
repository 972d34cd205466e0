import { BerthError } from '../../model/errors.ts';
import { type QuotaLimits, type QuotaName, quotaColumns, quotaNames } from '../../model/owners/quota.ts';
import { isValidAt } from '../market/price-books.ts';
import { oneOrNotFound } from '../rows.ts';
import { isoOf, type Transaction } from '../transaction.ts';
import { lockOwner } from './lock-owner.ts';

/** What an owner may have and has. */
export type Quotas = Record<QuotaName, { limit: number; used: number }>;

type QuotaRow = Record<(typeof quotaColumns)[QuotaName], bigint | number | null> &
  Record<QuotaName, bigint | number> & { hasPrices: boolean };

/** The limits of an owner's row, or else the site's, and what counts against them now. Throws not-found. */
export async function readQuotas(tx: Transaction, owner: string, site: QuotaLimits, nowMs: number): Promise<Quotas> {
  return (await readQuotasAndPrices(tx, owner, site, nowMs)).quotas;
}

/** In one statement with whether anything has a price now: an acceptance costs no more than without a market. */
async function readQuotasAndPrices(
  tx: Transaction,
  owner: string,
  site: QuotaLimits,
  nowMs: number,
): Promise<{ quotas: Quotas; hasPrices: boolean }> {
  const now = isoOf(nowMs);
  const rows = await tx.$queryRaw<QuotaRow[]>`
    SELECT o."maxBytes", o."maxQueued", o."maxVms", o."maxVcpus", o."maxMemoryMiB", o."maxDiskMiB", o."maxTasks",
      o."maxPorts", o."maxWebhooks", o."maxReservedVcpuHours", o."maxHorizonS", o."maxEntries", o."usedBytes" AS bytes,
      o."usedEntries" AS entries, t.tasks, t.queued, v.vms, v.vcpus, v."memoryMiB", v."diskMiB", p.ports, w.webhooks, l."reservedVcpuHours", l."horizonS",
      EXISTS (SELECT FROM "PriceBook" b WHERE ${isValidAt(now)}) AS "hasPrices"
    FROM "Owner" o,
      LATERAL (SELECT count(*) AS tasks, count(*) FILTER (WHERE state = 'queued') AS queued
        FROM "Task" WHERE "ownerId" = o.id AND state NOT IN ('succeeded', 'failed', 'cancelled')) t,
      LATERAL (SELECT count(*) FILTER (WHERE "order" IS NOT NULL) AS vms, COALESCE(sum(vcpus), 0) AS vcpus,
          COALESCE(sum("memoryMiB"), 0) AS "memoryMiB", COALESCE(sum("diskMiB" + "overlayMiB"), 0) AS "diskMiB"
        FROM "Vm" WHERE "ownerId" = o.id AND state <> 'removed' AND NOT template) v,
      LATERAL (SELECT count(*) AS ports FROM "PublishedPort" WHERE "ownerId" = o.id) p,
      LATERAL (SELECT count(*) AS webhooks FROM "Webhook" WHERE "ownerId" = o.id) w,
      LATERAL (SELECT COALESCE(sum(p.vcpus * EXTRACT(EPOCH FROM p."endAt" - GREATEST(p."startAt", ${now}::timestamptz)) / 3600)
            FILTER (WHERE p."endAt" > ${now}::timestamptz), 0)::float8 AS "reservedVcpuHours",
          COALESCE(max(GREATEST(0, EXTRACT(EPOCH FROM p."endAt" - ${now}::timestamptz))), 0)::float8 AS "horizonS"
        FROM (SELECT e."startAt", e."endAt", (SELECT COALESCE(sum(m.vcpus), 0) FROM "Vm" m WHERE m."leaseId" = e.id) AS vcpus
          FROM "Lease" e WHERE e."ownerId" = o.id AND e."startAt" IS NOT NULL AND e."endedAt" IS NULL) p) l
    WHERE o.id = ${owner}`;
  const row = oneOrNotFound(rows, `owner ${owner}`);
  const entries = quotaNames.map((name) => {
    const limit = Number(row[quotaColumns[name]] ?? site[name]);
    return [name, { limit, used: Number(row[name]) }] as const;
  });
  return { quotas: Object.fromEntries(entries) as Quotas, hasPrices: row.hasPrices };
}

/** What an accepted request adds to. Bytes are claimed by uploads; the queue's length and the VMs are counted before. */
const countedAfter = ['tasks', 'vcpus', 'memoryMiB', 'diskMiB', 'ports', 'reservedVcpuHours'] as const;

function refusal(quota: QuotaName, wanted: number, limit: number): BerthError {
  const most = Math.ceil(wanted * 100) / 100;
  return new BerthError(
    'quota-exceeded',
    `This owner's ${quota} would be ${most}, of at most ${limit}; let work end, or ask the operator for more (GET /v1/me shows all quotas)`,
    { extra: { quota, limit, wanted: most } },
  );
}

/** Seconds from now to the end of the lease of a task or a standalone VM; 0 without a promise. */
async function secondsToLeaseEnd(tx: Transaction, id: string, nowMs: number): Promise<number> {
  const rows = await tx.$queryRaw<{ endAt: Date | null }[]>`
    SELECT l."endAt" FROM "Lease" l WHERE l.id IN (SELECT "leaseId" FROM "Task" WHERE id = ${id}
      UNION ALL SELECT "leaseId" FROM "Vm" WHERE id = ${id})`;
  const endAt = rows[0]?.endAt ?? null;
  return endAt === null ? 0 : (endAt.getTime() - nowMs) / 1000;
}

interface SiteQuotas {
  limits: QuotaLimits;
  nowMs: number;
}

/**
 * Throws quota-exceeded where an owner has more than its quotas: the transaction then leaves nothing of what it inserted.
 * @param id of the task, VM or image that was inserted
 * @returns whether anything has a price now
 */
export async function refuseOverQuotas(
  tx: Transaction,
  owner: string,
  { limits, nowMs }: SiteQuotas,
  id: string,
): Promise<{ hasPrices: boolean }> {
  const { quotas, hasPrices } = await readQuotasAndPrices(tx, owner, limits, nowMs);
  // Fractions of hours are computed in floating point: what is exactly at the limit is within it.
  const over = countedAfter.find((name) => quotas[name].used > quotas[name].limit + 1e-6);
  if (over !== undefined) throw refusal(over, quotas[over].used, quotas[over].limit);
  // Its own end is no later than that of all of the owner's leases.
  if (quotas.horizonS.used <= quotas.horizonS.limit) return { hasPrices };
  const aheadS = await secondsToLeaseEnd(tx, id, nowMs);
  if (aheadS > quotas.horizonS.limit) throw refusal('horizonS', aheadS, quotas.horizonS.limit);
  return { hasPrices };
}

/**
 * Runs what adds to what an owner has of one kind, within its quota. Exact: the owner's acceptances are serialized to the end of
 * their transactions.
 */
export async function withinQuota<T>(
  tx: Transaction,
  owner: string,
  quota: 'ports' | 'webhooks',
  { limits, nowMs }: SiteQuotas,
  insert: () => Promise<T>,
): Promise<T> {
  await lockOwner(tx, 'quotas', owner);
  const inserted = await insert();
  const { limit, used } = (await readQuotas(tx, owner, limits, nowMs))[quota];
  if (used > limit) throw refusal(quota, used, limit);
  return inserted;
}

/**
 * Runs what inserts an owner's work, within its quotas. Exact: an owner's acceptances are serialized to the end of their
 * transactions, and nothing else adds to what it has.
 * @param insert returns the task or VM, or its id
 */
export async function withinQuotas<T extends string | { id: string }>(
  tx: Transaction,
  owner: string,
  site: SiteQuotas,
  insert: () => Promise<T>,
): Promise<{ inserted: T; hasPrices: boolean }> {
  await lockOwner(tx, 'quotas', owner);
  const inserted = await insert();
  const { hasPrices } = await refuseOverQuotas(tx, owner, site, typeof inserted === 'string' ? inserted : inserted.id);
  return { inserted, hasPrices };
}
