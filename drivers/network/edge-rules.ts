import { createHash } from 'node:crypto';
import type { EdgeOrders, PortOrder } from '../../contracts/edge.ts';
import { bridgeName } from './addressing.ts';

/** How many tracked connections clients may have to the ports of one owner. */
export interface ConnectionLimits {
  /** Of one client's address. */
  perClient: number;
  /** Of all clients. */
  perOwner: number;
}

interface EdgeRulesInput extends Pick<EdgeOrders, 'publicAddresses' | 'peers' | 'segments' | 'ports'> {
  /** TCP ports of the edge itself that everybody but guests may reach, at addresses that are not public. */
  openPorts: readonly number[];
  connections: ConnectionLimits;
  /** Chains in the kernel now, of which those that have no use are removed. */
  chains: readonly string[];
}

/** Rules that make the kernel's own chains begin with ours. */
interface EdgeJumps {
  filter: readonly string[];
  nat: readonly string[];
}

/** VXLAN's own port (RFC 7348). */
const vxlanPort = 4789;

/** Without an allow-list, one match of every client. */
const clientsOf = (allow: readonly string[]): readonly (string | null)[] => (allow.length === 0 ? [null] : allow);

/**
 * The chains of a segment: of packets to its guests, from them, and of errors about either. A packet is compared with the ports of
 * its owner alone.
 */
const chainsOf = (vni: number) => {
  const chain = `BERTH-EDGE-${vni.toString(16)}`;
  return { to: `${chain}-TO`, from: `${chain}-FROM`, allow: `${chain}-OK`, errors: chain };
};
const ownChain = /^BERTH-EDGE-[0-9a-f]+(-TO|-FROM|-OK|-[0-9a-z]+-[0-9a-z]+)?$/;

/**
 * The chain that bounds a segment's new connections. The kernel counts in the rule itself, so it is made once and left alone: a rule that
 * is made anew counts from zero. Its name has the limits, in base 36 for the kernel's 28 characters: other limits are another chain.
 */
const limitChainOf = (vni: number, { perClient, perOwner }: ConnectionLimits): string =>
  `BERTH-EDGE-${vni.toString(16)}-${perClient.toString(36)}-${perOwner.toString(36)}`;

const limitRules = (chain: string, { perClient, perOwner }: ConnectionLimits): string[] => [
  `-A ${chain} -m connlimit --connlimit-above ${perClient} --connlimit-mask 32 --connlimit-saddr -j DROP`,
  `-A ${chain} -m connlimit --connlimit-above ${perOwner} --connlimit-mask 0 --connlimit-saddr -j DROP`,
];

/**
 * The mark of connections that a segment's ports let through: a packet of one is compared with no port again, until a port of that segment
 * changes. The same ports have the same mark, and no two segments have one, so that a guest of one can't send what is another's.
 */
function markOf(ports: readonly PortOrder[]): string {
  const content = ports.map(({ vni, protocol, publicAddress, publicPort, address, port, allow }) =>
    [vni, protocol, publicAddress, publicPort, address, port, ...allow].join(' '),
  );
  const digest = createHash('sha256').update(content.toSorted().join('\n')).digest();
  // Never 0, which is that of a connection without one.
  return `0x${((digest.readUInt32BE(0) | 1) >>> 0).toString(16)}`;
}

/** Before a segment's ports. */
function markRules(vni: number, ports: readonly PortOrder[]): string[] {
  const { to, from, allow } = chainsOf(vni);
  const mark = markOf(ports);
  return [
    `-A ${allow} -j CONNMARK --set-mark ${mark}`,
    `-A ${allow} -j ACCEPT`,
    ...[to, from].map((chain) => `-A ${chain} -m connmark --mark ${mark} -j ACCEPT`),
  ];
}

/**
 * A flow is matched by what its connection was before and after translation: one that was translated by an earlier rule to
 * another VM is not this port's. The VM's address and port come first, which the kernel compares sooner.
 */
function portRules({ vni, allow, protocol, publicAddress, publicPort, address, port }: PortOrder): string[] {
  const flow = `-m conntrack --ctproto ${protocol} --ctorigdst ${publicAddress} --ctorigdstport ${publicPort} --ctreplsrc ${address} --ctreplsrcport ${port}`;
  const { to, from, allow: accept, errors } = chainsOf(vni);
  return clientsOf(allow)
    .map((cidr) => (cidr === null ? flow : `${flow} --ctorigsrc ${cidr}`))
    .flatMap((match) => [
      `-A ${to} -d ${address} -p ${protocol} --dport ${port} ${match} -j ${accept}`,
      `-A ${from} -s ${address} -p ${protocol} --sport ${port} ${match} -j ${accept}`,
      `-A ${errors} ${match} -j ACCEPT`,
    ]);
}

/**
 * All rules of an edge, as iptables-restore's input. New connections are for addresses that the edge has now (`LOCAL`): one
 * whose lease has ended takes none.
 */
export function edgeRules(
  { publicAddresses, peers, segments, ports, openPorts, connections, chains }: EdgeRulesInput,
  jumps: EdgeJumps,
): string {
  const bySegment = Map.groupBy(ports, ({ vni }) => vni);
  const joined = segments.filter(({ vni }) => bySegment.has(vni));
  const used = new Set(joined.flatMap(({ vni }) => Object.values(chainsOf(vni))));
  const limits = joined.map(({ vni }) => limitChainOf(vni, connections));
  const newLimits = limits.filter((chain) => !chains.includes(chain));
  const unused = chains.filter((chain) => ownChain.test(chain) && !used.has(chain) && !limits.includes(chain));
  return [
    '*filter',
    // Declaring a chain empties it, in the same transaction.
    ':BERTH-EDGE - [0:0]',
    ':BERTH-EDGE-IN - [0:0]',
    ...[...used, ...newLimits, ...unused].map((chain) => `:${chain} - [0:0]`),
    ...newLimits.flatMap((chain) => limitRules(chain, connections)),
    ...joined.flatMap(({ vni }) => {
      const own = bySegment.get(vni) ?? [];
      return [...markRules(vni, own), ...own.flatMap(portRules)];
    }),
    // Between two segments there is no flow: each has one side that is the outside.
    '-A BERTH-EDGE -i bg+ -o bg+ -j DROP',
    ...joined.flatMap(({ vni }) => {
      const [bridge, { to, from, errors }] = [bridgeName(vni), chainsOf(vni)];
      return [
        `-A BERTH-EDGE -o ${bridge} -m conntrack --ctstate NEW -j ${limitChainOf(vni, connections)}`,
        `-A BERTH-EDGE -o ${bridge} -m conntrack --ctdir ORIGINAL -j ${to}`,
        `-A BERTH-EDGE -i ${bridge} -m conntrack --ctdir REPLY -j ${from}`,
        ...['-i', '-o'].map((way) => `-A BERTH-EDGE ${way} ${bridge} -p icmp -m conntrack --ctstate RELATED -j ${errors}`),
      ];
    }),
    // An edge is no router: nothing else passes between any two interfaces.
    '-A BERTH-EDGE -j DROP',
    '-A BERTH-EDGE-IN -i lo -j ACCEPT',
    '-A BERTH-EDGE-IN -i bg+ -j DROP',
    ...publicAddresses.map((address) => `-A BERTH-EDGE-IN -d ${address} -j DROP`),
    '-A BERTH-EDGE-IN -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT',
    ...peers.map((peer) => `-A BERTH-EDGE-IN -s ${peer} -p udp --dport ${vxlanPort} -j ACCEPT`),
    ...openPorts.map((port) => `-A BERTH-EDGE-IN -p tcp --dport ${port} -j ACCEPT`),
    '-A BERTH-EDGE-IN -j DROP',
    ...unused.map((chain) => `-X ${chain}`),
    ...jumps.filter,
    'COMMIT',
    '*nat',
    ':BERTH-EDGE - [0:0]',
    ':BERTH-EDGE-OUT - [0:0]',
    ...joined
      .flatMap(({ vni }) => bySegment.get(vni) ?? [])
      .flatMap((order) => clientsOf(order.allow).map((cidr) => translation(order, cidr))),
    ...joined.map(
      ({ vni, address }) => `-A BERTH-EDGE-OUT -o ${bridgeName(vni)} -m conntrack --ctstate DNAT -j SNAT --to-source ${address}`,
    ),
    ...jumps.nat,
    'COMMIT',
    '',
  ].join('\n');
}

function translation({ protocol, publicAddress, publicPort, address, port }: PortOrder, cidr: string | null): string {
  const clients = cidr === null ? '' : `-s ${cidr} `;
  return `-A BERTH-EDGE ! -i bg+ ${clients}-d ${publicAddress} -m addrtype --dst-type LOCAL -p ${protocol} --dport ${publicPort} -j DNAT --to-destination ${address}:${port}`;
}
