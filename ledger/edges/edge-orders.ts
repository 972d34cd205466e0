import { createHash } from 'node:crypto';
import type { EdgeOrders, EdgeSegment, PortOrder } from '../../contracts/edge.ts';
import { lastFreeAddress } from '../placement/addresses.ts';
import { tryPlacementLock } from '../placement/lock-placement.ts';
import { readAddresses } from '../placement/owner-networks.ts';
import type { Transaction } from '../transaction.ts';

const digestOf = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex').slice(0, 16);

/** Networks with something to lead to, and the edge's address in each; null: it has none yet. */
async function readSegments(tx: Transaction, edge: string) {
  return tx.$queryRaw<{ id: string; owner: string; vni: number; cidr: string; address: string | null }[]>`
    SELECT n.id, n."ownerId" AS owner, n.vni, n.cidr, s.address
    FROM "Network" n LEFT JOIN "EdgeSegment" s ON s."networkId" = n.id AND s."edgeId" = ${edge}
    WHERE EXISTS (SELECT FROM "PublishedPort" p WHERE p."ownerId" = n."ownerId" AND p.state <> 'removing' AND p.address IS NOT NULL)
    ORDER BY n.vni`;
}

/**
 * Under the placement lock, so that no VM gets the same address. While others have that lock the segment is left to the next
 * exchange: an edge that waits would lose its lease.
 */
async function allocate(
  tx: Transaction,
  edge: string,
  network: { id: string; owner: string; cidr: string },
): Promise<string | null> {
  if (!(await tryPlacementLock(tx))) return null;
  const address = lastFreeAddress(network.cidr, await readAddresses(tx, network.owner));
  // One owner's full network is no reason to withhold the others': its ports stay pending.
  if (address === null) return null;
  await tx.edgeSegment.create({ data: { edgeId: edge, networkId: network.id, address } });
  return address;
}

/** All that an edge has to let through, in the same order each time, with the digest of it all. */
export async function readEdgeOrders(
  tx: Transaction,
  edge: string,
  publicAddresses: readonly string[],
): Promise<{ version: string; orders: EdgeOrders }> {
  const segments: EdgeSegment[] = [];
  for (const { address, ...network } of await readSegments(tx, edge)) {
    const { vni, cidr } = network;
    const own = address ?? (await allocate(tx, edge, network));
    if (own !== null) segments.push({ vni, cidr, address: own });
  }
  const rows = await tx.$queryRaw<Omit<PortOrder, 'digest'>[]>`
    SELECT p.id, n.vni, p.protocol, p."publicAddress", p."publicPort", p.address, p.port, p.allow
    FROM "PublishedPort" p JOIN "Network" n ON n."ownerId" = p."ownerId"
    WHERE p.state <> 'removing' AND p.address IS NOT NULL AND p."publicAddress" = ANY(${[...publicAddresses]})
      AND n.vni = ANY(${segments.map(({ vni }) => vni)}) ORDER BY p.id`;
  const hosts = await tx.$queryRaw<{ address: string }[]>`SELECT address FROM "Host" WHERE "removedAt" IS NULL ORDER BY id`;
  const orders: EdgeOrders = {
    publicAddresses: [...publicAddresses],
    peers: hosts.map(({ address }) => address),
    segments,
    ports: rows.map((row) => ({ ...row, digest: digestOf(row) })),
  };
  return { version: digestOf(orders), orders };
}
