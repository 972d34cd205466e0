import { isIP } from 'node:net';
import { deniedRanges, type ReachException } from '../../model/network/reach-exception.ts';
import { run } from '../host/run-process.ts';
import { gatewayMac } from './addressing.ts';
import { jumpTo, restoreChains } from './kernel-chains.ts';
import { type Resolve, resolveIpv4 } from './resolve-ipv4.ts';
import { sysctl } from './sysctl.ts';

/** What the rules for guests' packets are made from. */
interface GuestReach {
  /** The hosts' network. */
  hostsCidr: string;
  /** All owners' networks are inside this one. */
  guestSupernet: string;
  /** The resolvers in guests' resolv.conf: guests reach their DNS ports, whatever their addresses are. */
  nameservers: readonly string[];
  /** Addresses and CIDRs at which the site listens outside the hosts' network. */
  site: readonly string[];
  exceptions: readonly ReachException[];
}

interface FirewallOptions extends Omit<GuestReach, 'site'> {
  /** Names or addresses of the site's services that this host uses itself. */
  siteHosts: readonly string[];
  /** What the site listens on besides. */
  siteCidrs: readonly string[];
}

export interface GuestFirewall {
  /** The rules are in the kernel when it resolves, by this call or by an earlier one of this process. */
  ensure(): Promise<void>;
  /**
   * Resolves the site's names again, and replaces the rules. Where a name can't be resolved it keeps what is known of it,
   * replaces the rules, and then rejects.
   */
  refresh(): Promise<void>;
}

const deadlineMs = 15_000;
/** Of one name. Services whose addresses change keep those of before; the oldest are forgotten. */
const maxAddresses = 64;

/** The firewall for the guests of this host: docs/networks.md. */
export function openGuestFirewall(options: FirewallOptions, resolve: Resolve = resolveIpv4): GuestFirewall {
  const known = new Map<string, string[]>();
  let last: Promise<void> = Promise.resolve();
  /** The one that has put the rules into the kernel, or is about to. */
  let first: Promise<void> | null = null;

  /** Replaces the rules also where a name is not resolved: those of an earlier version may allow more. */
  async function replace(): Promise<void> {
    const failures: unknown[] = [];
    for (const host of options.siteHosts) {
      try {
        const addresses = await addressesOf(host, resolve);
        // A name that is resolved in turns to some of its addresses leads to all of them.
        known.set(host, [...new Set([...addresses, ...(known.get(host) ?? [])])].slice(0, maxAddresses));
      } catch (error) {
        failures.push(error);
      }
    }
    await applyRules({ ...options, site: [...options.siteCidrs, ...new Set([...known.values()].flat())] });
    if (failures.length > 0)
      throw new AggregateError(
        failures,
        `Guests must not reach the site, whose addresses could not be resolved: ${failures.map(String).join('; ')}`,
      );
  }

  /** One after the other. */
  const refresh = (): Promise<void> => {
    const mine = last.then(replace, replace);
    last = mine;
    first ??= mine;
    mine.catch(() => {
      if (first === mine) first = null;
    });
    return mine;
  };

  return { refresh, ensure: () => first ?? refresh() };
}

async function addressesOf(host: string, resolve: Resolve): Promise<string[]> {
  const version = isIP(host);
  // Guests have no IPv6.
  if (version === 6) return [];
  return version === 4 ? [host] : resolve(host);
}

/** Rules that make the kernel's own chains begin with ours. */
interface Jumps {
  filter: readonly string[];
  nat: readonly string[];
}

/**
 * The same rules for every owner's bridge, by their common prefix, so that a network comes and goes without touching them.
 * A guest reaches its own segment (bridged, never routed), the resolvers, what an exception opens, and public addresses (by
 * NAT, since each host has the same gateway address).
 */
export function firewallRules({ hostsCidr, guestSupernet, nameservers, site, exceptions }: GuestReach, jumps: Jumps): string {
  const guests = '-A BERTH-GUEST -i bg+';
  const dns = (server: string) => (protocol: string) =>
    `${guests} ! -o bg+ -s ${guestSupernet} -d ${server} -p ${protocol} --dport 53 -j ACCEPT`;
  const forward = [
    // First: the rules below may refuse the address of a site's resolver.
    ...nameservers.flatMap((server) => ['udp', 'tcp'].map(dns(server))),
    `${guests} -o bg+ -j DROP`,
    `${guests} ! -s ${guestSupernet} -j DROP`,
    // Before the exceptions: none of them opens what the site consists of.
    ...[guestSupernet, hostsCidr, ...site].map((range) => `${guests} -d ${range} -j DROP`),
    ...exceptions.flatMap((exception) => exceptionMatches(exception).map((match) => `${guests} ${match} -j ACCEPT`)),
    ...deniedRanges.map((range) => `${guests} -d ${range} -j DROP`),
    `${guests} -j ACCEPT`,
    '-A BERTH-GUEST -o bg+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT',
    '-A BERTH-GUEST -o bg+ -j DROP',
  ];
  return [
    '*filter',
    // Declaring a chain empties it, in the same transaction.
    ':BERTH-GUEST - [0:0]',
    ':BERTH-GUEST-IN - [0:0]',
    ...forward,
    '-A BERTH-GUEST-IN -i bg+ -j DROP',
    ...jumps.filter,
    'COMMIT',
    '*nat',
    ':BERTH-GUEST - [0:0]',
    `-A BERTH-GUEST -s ${guestSupernet} ! -o bg+ -j MASQUERADE`,
    ...jumps.nat,
    'COMMIT',
    '',
  ].join('\n');
}

function exceptionMatches({ cidr, ports }: ReachException): string[] {
  if (ports === null) return [`-d ${cidr}`];
  return ports.protocols.map((protocol) => `-d ${cidr} -p ${protocol} --dport ${ports.first}:${ports.last}`);
}

/** Replaces our chains, and their places in the kernel's own, in one step a table. */
async function applyRules(reach: GuestReach): Promise<void> {
  await sysctl('net/ipv4/ip_forward', '1');
  // Frames between guests of one owner are bridged: iptables' rules are for what is routed.
  await sysctl('net/bridge/bridge-nf-call-iptables', '0');
  const jumps = {
    filter: [...(await jumpTo('filter', 'FORWARD', 'BERTH-GUEST')), ...(await jumpTo('filter', 'INPUT', 'BERTH-GUEST-IN'))],
    nat: await jumpTo('nat', 'POSTROUTING', 'BERTH-GUEST'),
  };
  await restoreChains(firewallRules(reach, jumps));
  for (const [chain, ...rule] of gatewayRules) {
    const rules = await run(['ebtables', '-t', 'filter', '-L', chain], { deadlineMs });
    if (!rules.includes(rule.join(' '))) await run(['ebtables', '-t', 'filter', '-A', chain, ...rule], { deadlineMs });
  }
}

/**
 * Each host answers for the gateway itself: the gateway's frames aren't sent to the peers, whose gateways have the same
 * address, and no guest may use its address.
 */
const gatewayRules = [
  ['OUTPUT', '-s', gatewayMac, '-o', 'vx+', '-j', 'DROP'],
  ['FORWARD', '-s', gatewayMac, '-j', 'DROP'],
] as const;
