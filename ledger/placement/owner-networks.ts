import { newId } from '../../model/ids.ts';
import type { Transaction } from '../transaction.ts';
import { nextNetwork } from './addresses.ts';

/** A VXLAN network identifier has 24 bits; 0 is not used. */
const maxVni = 2 ** 24 - 1;

/**
 * Creates the network of an owner that has none, and returns its CIDR; null where the site's supernet is exhausted. The
 * caller holds the placement lock, so that no two owners get the same.
 */
export async function createNetwork(tx: Transaction, supernet: string, owner: string): Promise<string | null> {
  const networks = await tx.network.findMany({ select: { vni: true, cidr: true } });
  const free = nextNetwork(
    supernet,
    networks.map((network) => network.cidr),
  );
  const vnis = new Set(networks.map((network) => network.vni));
  let vni = 1;
  while (vnis.has(vni)) vni += 1;
  if (free === null || vni > maxVni) return null;
  await tx.network.create({ data: { id: newId('network'), ownerId: owner, vni, ...free } });
  return free.cidr;
}

/** The network of an owner, created where it has none; null where the site's supernet is exhausted. */
export async function ensureNetwork(tx: Transaction, supernet: string, owner: string): Promise<string | null> {
  const found = await tx.network.findUnique({ where: { ownerId: owner }, select: { cidr: true } });
  return found?.cidr ?? createNetwork(tx, supernet, owner);
}

/** The addresses that an owner's VMs have. */
export async function readAddresses(tx: Transaction, owner: string): Promise<Set<string>> {
  const rows = await tx.$queryRaw<{ address: string }[]>`
    SELECT address FROM "Vm" WHERE "ownerId" = ${owner} AND state NOT IN ('pending', 'removed') AND address IS NOT NULL
    UNION ALL SELECT f.address FROM "Fence" f JOIN "Vm" v ON v.id = f."vmId" AND v."ownerId" = ${owner} WHERE f.address IS NOT NULL`;
  return new Set(rows.map(({ address }) => address));
}
