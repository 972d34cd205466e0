import { BerthError } from '../../model/errors.ts';
import { AcceptedMarket } from '../../model/market/offer.ts';
import { PriceTerms } from '../../model/money/price-terms.ts';
import { betterHost, type PricedHost } from '../../scheduler/market/better-offer.ts';
import { type MatchedOffer, matchOffers } from '../../scheduler/market/match.ts';
import type { Ledger } from '../client.ts';
import { isOpenToMigrations } from '../hosts/open-hosts.ts';
import { batch } from '../housekeeping.ts';
import { lockBill } from '../market/bill-row.ts';
import { acceptMigration } from '../migrations/accept-migration.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { groupsIn, labelsOf, readMembers, rulesOfVm } from '../placement/read-rules.ts';
import { inTransaction, type Transaction } from '../transaction.ts';
import { readOffers } from './offers.ts';
import { readLeaseSize } from './take-offers.ts';

/** A VM moves by itself so often at most. */
const restMs = 3_600_000;
/** By which share a VM has to be cheaper elsewhere. */
const leastShare = 0.1;

/**
 * Moves VMs whose owners allow it to offers that are cheaper by a tenth, each in a transaction of its own: as a cold migration with its
 * disks, which the housekeeping starts. Offers that are published after an order's acceptance count as well.
 * @returns how many moves were accepted
 */
export async function moveToBetterOffers(ledger: Ledger, clock: () => number): Promise<number> {
  const rested = new Date(clock() - restMs);
  const due = await ledger.$queryRaw<{ vm: string }[]>`
    SELECT v.id AS vm FROM "Vm" v JOIN "Lease" l ON l.id = v."leaseId"
    WHERE l.market @> '{"terms": {"move": true}}' AND l."endedAt" IS NULL AND v.state = 'running' AND v.operation IS NULL
      AND v."removalRequestedAt" IS NULL AND v."taskId" IS NULL
      AND COALESCE((SELECT max(m."createdAt") FROM "Migration" m WHERE m."vmId" = v.id), v."startedAt") <= ${rested}
    ORDER BY v.id LIMIT ${batch}`;
  let moves = 0;
  for (const { vm } of due) moves += (await tryMove(ledger, vm, clock())) ? 1 : 0;
  return moves;
}

/** One that has changed meanwhile stays where it is. */
async function tryMove(ledger: Ledger, vm: string, nowMs: number): Promise<boolean> {
  try {
    return await inTransaction(ledger, (tx) => moveToBetter(tx, vm, nowMs));
  } catch (error) {
    if (error instanceof BerthError && (error.code === 'conflict' || error.code === 'migration-refused')) return false;
    throw error;
  }
}

interface MovingRow {
  lease: string;
  host: string;
  home: string;
  vcpus: number;
  memoryMiB: number;
  diskMiB: number;
  market: unknown;
  owner: string;
  rules: unknown;
}

async function moveToBetter(tx: Transaction, vm: string, nowMs: number): Promise<boolean> {
  await lockPlacement(tx);
  const rows = await tx.$queryRaw<MovingRow[]>`
    SELECT l.id AS lease, v."hostId" AS host, v."homeId" AS home, v.vcpus, v."memoryMiB", v."diskMiB" + v."overlayMiB" AS "diskMiB", l.market,
      v."ownerId" AS owner, v.rules
    FROM "Vm" v JOIN "Lease" l ON l.id = v."leaseId" WHERE v.id = ${vm} AND v.state = 'running' FOR UPDATE OF v`;
  const [row] = rows;
  if (row === undefined) return false;
  const market = AcceptedMarket.parse(row.market);
  const currency = (await tx.bill.findUnique({ where: { leaseId: row.lease }, select: { currency: true } }))?.currency;
  if (currency === undefined) return false;
  const { matched } = matchOffers(
    await readOffers(tx, nowMs),
    { ...(await readLeaseSize(tx, row.lease)), currency },
    market.terms,
  );
  // What was accepted keeps its price; a provider that has come since is as its offer says now.
  const known = new Map(market.offers.map(({ provider, hourMicros }) => [provider, hourMicros]));
  const added = matched.filter(({ offer }) => !known.has(offer.provider));
  const costs = new Map([...known, ...added.map(({ offer, hourMicros }) => [offer.provider, hourMicros] as const)]);
  const disk = { homeHost: row.home, diskMiB: row.diskMiB, memoryMiB: row.memoryMiB };
  const rules = rulesOfVm(row.owner, row.rules);
  const placement = rules === null ? null : { rules, members: await readMembers(tx, groupsIn([rules])) };
  const better = betterHost(
    { host: row.host, vcpus: row.vcpus, memoryMiB: row.memoryMiB, disk, placement },
    await readPricedHosts(tx, costs),
    leastShare,
  );
  if (better === null) return false;
  const { provider } = await tx.host.findUniqueOrThrow({ where: { id: better.host }, select: { provider: true } });
  const reason = `It costs ${better.hourMicros} micro-units an hour at ${provider}`;
  const request = {
    vm,
    to: better.host,
    mode: 'cold' as const,
    moveDisk: true,
    coldFallback: false,
    requestedBy: 'market',
    reason,
    nowMs,
  };
  await acceptMigration(tx, request);
  const offer = added.find((one) => one.offer.provider === provider);
  if (offer !== undefined) await addOffer(tx, row.lease, market, offer);
  return true;
}

/** The bill has the provider's prices before the VM is there. */
async function addOffer(
  tx: Transaction,
  lease: string,
  market: AcceptedMarket,
  { offer, hourMicros }: MatchedOffer,
): Promise<void> {
  const offers = [...market.offers, { offer: offer.id, provider: offer.provider, hourMicros }];
  const sorted = offers.toSorted((a, b) => a.hourMicros - b.hourMicros || (a.provider < b.provider ? -1 : 1));
  await tx.lease.update({ where: { id: lease }, data: { market: { ...market, offers: sorted } } });
  const bill = await lockBill(tx, lease);
  if (bill === null) throw new BerthError('conflict', `The bill of ${lease} has ended`);
  const { rules } = bill.terms;
  const extended = [...rules.slice(0, -1), { provider: offer.provider, ...offer.rates }, ...rules.slice(-1)];
  const terms = PriceTerms.parse({ ...bill.terms, rules: extended });
  await tx.bill.update({ where: { leaseId: lease }, data: { terms } });
}

/** Hosts as targets of a migration, with what an hour of the order costs there. @param costs by provider */
async function readPricedHosts(tx: Transaction, costs: ReadonlyMap<string, number>): Promise<PricedHost[]> {
  const rows = await tx.$queryRaw<
    (Omit<PricedHost, 'capacity' | 'used' | 'hourMicros' | 'hasImage' | 'labels'> & {
      provider: string;
      vcpus: number;
      memoryMiB: number;
      usedVcpus: number;
      usedMemoryMiB: number;
      labels: unknown;
    })[]
  >`
    SELECT h.id, h.state::text AS state, ${isOpenToMigrations} AND h.schedulable AS "acceptsMigrations", h.accelerator, h."cpuModel",
      h.provider, h.labels, h.vcpus, h."memoryMiB", h."usedVcpus", h."usedMemoryMiB", h."diskMiB" - h."usedDiskMiB" AS "freeDiskMiB",
      (SELECT count(*)::int FROM "Migration" m WHERE m."toId" = h.id AND m.reserved) AS arriving,
      (SELECT count(*)::int FROM "Migration" m WHERE m."fromId" = h.id AND m.reserved) AS leaving
    FROM "Host" h WHERE h."removedAt" IS NULL ORDER BY h.id`;
  return rows.map(({ provider, vcpus, memoryMiB, usedVcpus, usedMemoryMiB, labels, ...host }) => ({
    ...host,
    labels: labelsOf(labels),
    hasImage: false,
    capacity: { vcpus, memoryMiB },
    used: { vcpus: usedVcpus, memoryMiB: usedMemoryMiB },
    hourMicros: costs.get(provider) ?? null,
  }));
}
