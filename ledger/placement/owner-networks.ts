import { newId } from '../../model/ids.ts';
import type { Transaction } from '../transaction.ts';
import { nextNetwork } from './addresses.ts';
import type { NetworkRow } from './read-waiting.ts';

/** An owner's part of the guests' network. */
export interface OwnerNetwork {
  cidr: string;
  /** The addresses of the owner's VMs. */
  taken: Set<string>;
}

/** A VXLAN network identifier has 24 bits; 0 is not used. */
const maxVni = 2 ** 24 - 1;

async function createNetwork(tx: Transaction, supernet: string, owner: string): Promise<OwnerNetwork | null> {
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
 * Creates the networks of those owners that have none yet; null where the site's supernet is exhausted. The caller holds
 * the placement lock, so that no two owners get the same.
 */
export async function addNetworks(
  tx: Transaction,
  supernet: string,
  owners: readonly string[],
  networks: Map<string, OwnerNetwork | null>,
): Promise<void> {
  for (const owner of owners) if (!networks.has(owner)) networks.set(owner, await createNetwork(tx, supernet, owner));
}

/** The networks that these owners have, with the addresses in use there. */
export async function readNetworks(tx: Transaction, owners: readonly string[]): Promise<NetworkRow[]> {
  if (owners.length === 0) return [];
  return tx.$queryRaw<NetworkRow[]>`
    SELECT n."ownerId" AS owner, n.cidr, ARRAY(SELECT v.address FROM "Vm" v
      WHERE v."ownerId" = n."ownerId" AND v.state NOT IN ('pending', 'removed') AND v.address IS NOT NULL) AS taken
    FROM "Network" n WHERE n."ownerId" = ANY(${owners})`;
}

export const networkMap = (rows: readonly NetworkRow[]): Map<string, OwnerNetwork | null> =>
  new Map(rows.map(({ owner, cidr, taken }) => [owner, { cidr, taken: new Set(taken) }]));
