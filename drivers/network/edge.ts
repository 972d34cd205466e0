import type { EdgeOrders } from '../../contracts/edge.ts';
import { bridgeName } from './addressing.ts';
import { deleteStaleFlows } from './edge-flows.ts';
import { type ConnectionLimits, edgeRules } from './edge-rules.ts';
import { openNetwork } from './host-network.ts';
import { chainsOf, jumpTo, restoreChains } from './kernel-chains.ts';
import { sysctl } from './sysctl.ts';

export interface EdgeOptions {
  /** This edge's address on the hosts' network, over which the VXLANs run. */
  address: string;
  /** TCP ports of the edge itself, at addresses that are not public. */
  openPorts: readonly number[];
  connections: ConnectionLimits;
}

/** The rules and segments of an edge in this machine's kernel: docs/edges.md. */
export interface EdgeKernel {
  /** The kernel lets through what the orders have, and nothing else, when it resolves. Repeatable; one at a time. */
  apply(orders: EdgeOrders): Promise<void>;
}

/** A locally administered MAC with the segment's address in its last four bytes, which is no guest's. */
const macOf = (address: string): string =>
  ['02', '62', ...address.split('.').map((part) => Number(part).toString(16).padStart(2, '0'))].join(':');

export function openEdge({ address, openPorts, connections }: EdgeOptions): EdgeKernel {
  // The rules are there first, by the order of apply.
  let peers: readonly string[] | null = null;
  const network = openNetwork({ address, firewall: { ensure: async () => undefined }, peers: () => peers, macOf });

  /** Rules before segments: an owner's bridge comes up with all of its rules. */
  async function apply(orders: EdgeOrders): Promise<void> {
    await sysctl('net/ipv4/ip_forward', '1');
    await sysctl('net/bridge/bridge-nf-call-iptables', '0');
    const jumps = {
      filter: [...(await jumpTo('filter', 'FORWARD', 'BERTH-EDGE')), ...(await jumpTo('filter', 'INPUT', 'BERTH-EDGE-IN'))],
      nat: [...(await jumpTo('nat', 'PREROUTING', 'BERTH-EDGE')), ...(await jumpTo('nat', 'POSTROUTING', 'BERTH-EDGE-OUT'))],
    };
    await restoreChains(edgeRules({ ...orders, openPorts, connections, chains: await chainsOf('filter') }, jumps));
    peers = orders.peers;
    for (const { vni, cidr, address: gateway } of orders.segments) {
      await network.ensure({ vni, cidr, gateway });
      // It has other addresses, at which no guest is to find it, and which none is to see.
      await sysctl(`net/ipv4/conf/${bridgeName(vni)}/arp_ignore`, '1');
      await sysctl(`net/ipv4/conf/${bridgeName(vni)}/arp_announce`, '2');
    }
    const wanted = new Set(orders.segments.map(({ vni }) => vni));
    for (const { vni } of await network.list()) if (!wanted.has(vni)) await network.removeIfIdle(vni, async () => false);
    await deleteStaleFlows(orders.ports);
  }

  return { apply };
}
