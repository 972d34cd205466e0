import { newId } from '../../model/ids.ts';
import { nextNetwork } from './addresses.ts';
import type { Transaction } from './deps.ts';

/** What an owner's guests have of the guests' network. */
export interface OwnerNetwork {
  cidr: string;
  /** Addresses of the owner's VMs that have one of their own. */
  taken: Set<string>;
}

/** A VXLAN's number has 24 bits; 0 is left out. */
const maxVni = 2 ** 24 - 1;

async function create(tx: Transaction, supernet: string, owner: string): Promise<OwnerNetwork | null> {
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
  return { cidr: free.cidr, taken: new Set() };
}

/**
 * The networks of these owners, made where an owner has none yet; null where the site's supernet is used up. The caller
 * holds the placement lock, so that no two owners are given the same.
 */
export async function ownerNetworks(
  tx: Transaction,
  supernet: string,
  owners: readonly string[],
): Promise<Map<string, OwnerNetwork | null>> {
  const rows = await tx.$queryRaw<{ ownerId: string; cidr: string; taken: string[] }[]>`
    SELECT n."ownerId", n.cidr, ARRAY(
      SELECT v.address FROM "Vm" v
      WHERE v."ownerId" = n."ownerId" AND v.state NOT IN ('pending', 'removed') AND v.address IS NOT NULL) AS taken
    FROM "Network" n WHERE n."ownerId" = ANY(${owners})`;
  const networks = new Map<string, OwnerNetwork | null>(
    rows.map((row) => [row.ownerId, { cidr: row.cidr, taken: new Set(row.taken) }]),
  );
  for (const owner of owners) if (!networks.has(owner)) networks.set(owner, await create(tx, supernet, owner));
  return networks;
}
