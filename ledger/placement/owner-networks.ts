import { newId } from '../../model/ids.ts';
import type { Transaction } from '../transaction.ts';
import { nextNetwork } from './addresses.ts';

/** What an owner's guests have of the guests' network. */
export interface OwnerNetwork {
  cidr: string;
  /** Addresses of the owner's VMs that have one of their own. */
  taken: Set<string>;
}

/** A VXLAN's number has 24 bits; 0 is left out. */
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
 * Makes the networks of those owners that have none yet; null where the site's supernet is used up. The caller holds the
 * placement lock, so that no two owners are given the same.
 */
export async function addNetworks(
  tx: Transaction,
  supernet: string,
  owners: readonly string[],
  networks: Map<string, OwnerNetwork | null>,
): Promise<void> {
  for (const owner of owners) if (!networks.has(owner)) networks.set(owner, await createNetwork(tx, supernet, owner));
}
