import { newId } from '../../model/ids.ts';
import type { Transaction } from '../transaction.ts';
import { networkPrefix, nextNetwork } from './addresses.ts';

/** A VXLAN network identifier has 24 bits; 0 is not used. */
const maxVni = 2 ** 24 - 1;

/** A free VXLAN and CIDR, as large as the owner's own quota; null where there is none. */
async function chooseNetwork(tx: Transaction, supernet: string, owner: string) {
  const networks = await tx.network.findMany({ select: { vni: true, cidr: true } });
  const { maxVcpus } = await tx.owner.findUniqueOrThrow({ where: { id: owner }, select: { maxVcpus: true } });
  const free = nextNetwork(
    supernet,
    networks.map((network) => network.cidr),
    networkPrefix(maxVcpus),
  );
  const vnis = new Set(networks.map((network) => network.vni));
  let vni = 1;
  while (vnis.has(vni)) vni += 1;
  return free === null || vni > maxVni ? null : { vni, ...free };
}

/**
 * Creates the network of an owner that has none, and returns its CIDR; null where the site's supernet is exhausted. The
 * caller holds the placement lock, so that no two owners get the same.
 */
export async function createNetwork(tx: Transaction, supernet: string, owner: string): Promise<string | null> {
  const free = await chooseNetwork(tx, supernet, owner);
  if (free === null) return null;
  await tx.network.create({ data: { id: newId('network'), ownerId: owner, ...free } });
  return free.cidr;
}

/**
 * Gives an owner whose quota has outgrown its network a larger one, and returns the new CIDR. Guests keep the network with
 * which they were made, so this waits until the owner has none; null until then, and where the supernet has no larger one.
 * The VXLAN is another one too: hosts may still have a bridge of the old one.
 */
export async function growNetwork(tx: Transaction, supernet: string, owner: string): Promise<string | null> {
  const used = await tx.$queryRaw<{ used: boolean }[]>`
    SELECT EXISTS (SELECT FROM "Vm" WHERE "ownerId" = ${owner} AND state NOT IN ('pending', 'removed') AND address IS NOT NULL)
      OR EXISTS (SELECT FROM "Fence" f JOIN "Vm" v ON v.id = f."vmId" AND v."ownerId" = ${owner} WHERE f.address IS NOT NULL)
      OR EXISTS (SELECT FROM "PublishedPort" WHERE "ownerId" = ${owner} AND address IS NOT NULL) AS used`;
  if (used[0]!.used) return null;
  const free = await chooseNetwork(tx, supernet, owner);
  if (free === null) return null;
  // Edges join the new one with other addresses.
  await tx.edgeSegment.deleteMany({ where: { network: { ownerId: owner } } });
  await tx.network.update({ where: { ownerId: owner }, data: free });
  return free.cidr;
}

/** The network of an owner, created where it has none; null where the site's supernet is exhausted. */
export async function ensureNetwork(tx: Transaction, supernet: string, owner: string): Promise<string | null> {
  const found = await tx.network.findUnique({ where: { ownerId: owner }, select: { cidr: true } });
  return found?.cidr ?? createNetwork(tx, supernet, owner);
}

/** The addresses that an owner's VMs have, that edges have in its network, and to which edges may still lead. */
export async function readAddresses(tx: Transaction, owner: string): Promise<Set<string>> {
  const rows = await tx.$queryRaw<{ address: string }[]>`
    SELECT address FROM "Vm" WHERE "ownerId" = ${owner} AND state NOT IN ('pending', 'removed') AND address IS NOT NULL
    UNION ALL SELECT f.address FROM "Fence" f JOIN "Vm" v ON v.id = f."vmId" AND v."ownerId" = ${owner} WHERE f.address IS NOT NULL
    UNION ALL SELECT address FROM "PublishedPort" WHERE "ownerId" = ${owner} AND state = 'removing' AND address IS NOT NULL
    UNION ALL SELECT e.address FROM "EdgeSegment" e JOIN "Network" n ON n.id = e."networkId" AND n."ownerId" = ${owner}`;
  return new Set(rows.map(({ address }) => address));
}
