import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { run } from '../../drivers/host/run-process.ts';

/** The hosts' network of one site on this machine: a bridge, with the machine itself as the gateway. */
export interface SiteNetwork {
  bridge: string;
  /** First three octets. */
  subnet: string;
  cidr: string;
  /** The machine's own address on it, at which the hosts reach Temporal and the API. */
  gateway: string;
}

/** Leaves space for VXLAN headers around the largest frames of guests. */
export const hostsMtu = 1600;
const deadlineMs = 10_000;

const bridgeName = (tag: string): string => `berth-${tag}`;
/** The machine's end of a host's veth pair. */
export const vethName = (tag: string, index: number): string => `bv-${tag}-${index}`;
const ruleComment = (tag: string): string => `berth site ${tag}`;
export const hostAddress = (network: SiteNetwork, index: number): string => `${network.subnet}.${10 + index}`;
/** Beyond those of the hosts, of which there are 200 at the most. */
export const edgeAddress = (network: SiteNetwork, index: number): string => `${network.subnet}.${220 + index}`;
/** At which ports of guests are published: on this machine alone, which is what is outside of a local site. */
export const publicAddress = (network: SiteNetwork): string => `${network.subnet}.250`;

interface Link {
  ifname: string;
  ifalias?: string;
  addr_info?: { family: string; local: string; prefixlen: number }[];
}

async function links(): Promise<Link[]> {
  const show = async (what: 'address' | 'link'): Promise<Link[]> =>
    JSON.parse(await run(['ip', '-json', what, 'show'], { deadlineMs, limitBytes: 8 * 2 ** 20 })) as Link[];
  const [found, named] = await Promise.all([show('address'), show('link')]);
  // The list of addresses has no aliases (iproute2 6.1).
  const aliases = new Map(named.map(({ ifname, ifalias }) => [ifname, ifalias]));
  return found.map((link) => {
    const ifalias = aliases.get(link.ifname);
    return { ...link, ...(ifalias === undefined ? {} : { ifalias }) };
  });
}

/**
 * Makes the bridge with a /24 that nothing on this machine uses: `wanted`, if it is still free. An earlier run's network
 * of the same site must have been removed before. Enables forwarding; the bridge's alias records whether it was disabled
 * before, exists exactly as long as the bridge, and passes from site to site.
 */
export async function createNetwork(tag: string, wanted: string | null): Promise<SiteNetwork> {
  const bridge = bridgeName(tag);
  const others = (await links()).filter((link) => link.ifname.startsWith('berth-'));
  const forwardWasOff = !isForwarding() || others.some((link) => link.ifalias === aliasForwardOff);
  await run(['ip', 'link', 'add', bridge, 'mtu', String(hostsMtu), 'type', 'bridge', 'forward_delay', '0'], { deadlineMs });
  await run(['ip', 'link', 'set', bridge, 'alias', forwardWasOff ? aliasForwardOff : 'berth'], { deadlineMs });
  writeFileSync(`/proc/sys/net/ipv6/conf/${bridge}/disable_ipv6`, '1');
  // Allows the DNAT rule below to lead to 127.0.0.1; all other packets for such an address are dropped (INPUT).
  writeFileSync(`/proc/sys/net/ipv4/conf/${bridge}/route_localnet`, '1');
  const subnet = await claimSubnet(tag, bridge, wanted);
  await run(['ip', 'link', 'set', bridge, 'up'], { deadlineMs });
  setForwarding(true);
  return { bridge, subnet, cidr: `${subnet}.0/24`, gateway: `${subnet}.1` };
}

const aliasForwardOff = 'berth; forwarding was off';
const forwardSwitch = '/proc/sys/net/ipv4/ip_forward';
const isForwarding = (): boolean => readFileSync(forwardSwitch, 'utf8').trim() === '1';
const setForwarding = (on: boolean): void => {
  if (isForwarding() !== on) writeFileSync(forwardSwitch, on ? '1' : '0');
};

/** Takes an address, then checks again: if two sites took the same /24 at once, both try the next. */
async function claimSubnet(tag: string, bridge: string, wanted: string | null): Promise<string> {
  const first = Number.parseInt(tag.slice(0, 2), 16);
  const candidates = Array.from({ length: 256 }, (_, i) => `10.90.${(first + i) % 256}`);
  if (wanted !== null) candidates.unshift(wanted);
  for (const subnet of candidates) {
    if (await isTaken(subnet, bridge)) continue;
    const address = `${subnet}.1/24`;
    await run(['ip', 'address', 'add', address, 'dev', bridge], { deadlineMs });
    if (!(await isTaken(subnet, bridge))) return subnet;
    await run(['ip', 'address', 'del', address, 'dev', bridge], { deadlineMs });
  }
  throw new Error('No free /24 in 10.90.0.0/16 for the network of the hosts');
}

/** Whether the machine has an address in, or a separate route to, that /24. */
async function isTaken(subnet: string, butFor: string): Promise<boolean> {
  const routes = JSON.parse(await run(['ip', '-json', 'route', 'show', 'root', `${subnet}.0/24`], { deadlineMs })) as {
    dev?: string;
  }[];
  const inside = (await links()).some(
    (link) =>
      link.ifname !== butFor && (link.addr_info ?? []).some((a) => a.family === 'inet' && a.local.startsWith(`${subnet}.`)),
  );
  return inside || routes.some((route) => route.dev !== butFor);
}

/** TCP ports of the machine that hosts reach at the gateway's address. */
export interface OfferedPorts {
  /** Ports of servers that listen on the gateway's address. */
  gateway: readonly number[];
  /** Ports of servers that listen on 127.0.0.1 alone, offered under the same number. */
  local: readonly number[];
}

/**
 * The machine's filter rules for the site: hosts reach the offered ports of the machine and the outside, nothing else
 * reaches the hosts, and the hosts reach no other service of the machine. Each rule has the site's comment.
 */
export function machineRules(tag: string, network: SiteNetwork, ports: OfferedPorts): string {
  const comment = `-m comment --comment "${ruleComment(tag)}"`;
  const { bridge, gateway, cidr } = network;
  // Rules inserted at 1 one after the other are evaluated in reverse order, the last one first. The accepting rules for
  // forwarding are appended: another site's DROP at the top then precedes them.
  return [
    '*filter',
    `-I INPUT 1 -i ${bridge} ${comment} -j DROP`,
    `-I INPUT 1 -i ${bridge} -p icmp ${comment} -j ACCEPT`,
    ...ports.gateway.map((port) => `-I INPUT 1 -i ${bridge} -d ${gateway} -p tcp --dport ${port} ${comment} -j ACCEPT`),
    ...ports.local.map(
      (port) => `-I INPUT 1 -i ${bridge} -p tcp --dport ${port} -m conntrack --ctstate DNAT ${comment} -j ACCEPT`,
    ),
    `-I INPUT 1 -i ${bridge} -m conntrack --ctstate ESTABLISHED,RELATED ${comment} -j ACCEPT`,
    `-I FORWARD 1 -o ${bridge} ! -i ${bridge} -m conntrack --ctstate NEW,INVALID ${comment} -j DROP`,
    `-A FORWARD -i ${bridge} ${comment} -j ACCEPT`,
    `-A FORWARD -o ${bridge} -m conntrack --ctstate ESTABLISHED,RELATED ${comment} -j ACCEPT`,
    'COMMIT',
    '*mangle',
    // The uplink's MTU may be smaller than the guests' 1500.
    `-A FORWARD -i ${bridge} -p tcp --tcp-flags SYN,RST SYN ${comment} -j TCPMSS --clamp-mss-to-pmtu`,
    `-A FORWARD -o ${bridge} -p tcp --tcp-flags SYN,RST SYN ${comment} -j TCPMSS --clamp-mss-to-pmtu`,
    'COMMIT',
    '*nat',
    ...ports.local.map(
      (port) => `-A PREROUTING -i ${bridge} -d ${gateway} -p tcp --dport ${port} ${comment} -j DNAT --to-destination 127.0.0.1`,
    ),
    `-A POSTROUTING -s ${cidr} ! -o ${bridge} ${comment} -j MASQUERADE`,
    'COMMIT',
    '',
  ].join('\n');
}

export async function applyMachineRules(rules: string): Promise<void> {
  await run(['iptables-restore', '--wait', '10', '--noflush'], { deadlineMs: 15_000, input: rules });
}

/** Removes whichever of the site's rules, links and bridge exist. */
export async function removeNetwork(tag: string): Promise<void> {
  const saved = await run(['iptables-save'], { deadlineMs, limitBytes: 8 * 2 ** 20 });
  const removal = removalOf(saved, ruleComment(tag));
  if (removal !== '') await applyMachineRules(removal);
  const found = await links();
  const cables = found.map((link) => link.ifname).filter((name) => name.startsWith(`bv-${tag}-`));
  // A link disappears with its host's namespace, possibly while this runs.
  for (const cable of cables) await removeLink(cable);
  const own = found.find((link) => link.ifname === bridgeName(tag));
  if (own === undefined) return;
  await removeLink(own.ifname);
  const last = !(await links()).some((link) => link.ifname.startsWith('berth-'));
  if (last && own.ifalias === aliasForwardOff) setForwarding(false);
}

async function removeLink(name: string): Promise<void> {
  try {
    await run(['ip', 'link', 'delete', name], { deadlineMs });
  } catch (error) {
    if ((await links()).some((link) => link.ifname === name)) throw error;
  }
}

/** Replaces -A by -D in the same rules, table by table. */
export function removalOf(saved: string, comment: string): string {
  const lines: string[] = [];
  for (const line of saved.split('\n')) {
    if (line.startsWith('*')) lines.push(line);
    else if (line.startsWith('-A ') && line.includes(`--comment "${comment}"`)) lines.push(line.replace('-A ', '-D '));
    else if (line === 'COMMIT') {
      if (lines.at(-1)?.startsWith('*')) lines.pop();
      else lines.push('COMMIT');
    }
  }
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`;
}

/**
 * A TCP port that is free on all the addresses: `wanted` if it is. Other ports are below the kernel's range for outgoing
 * connections, so that a server that restarts finds its port still free.
 */
export async function freePort(
  addresses: readonly string[],
  wanted: number | undefined,
  taken: ReadonlySet<number>,
): Promise<number> {
  const random = () => 20_000 + Math.floor(Math.random() * 12_000);
  const candidates = [...(wanted === undefined ? [] : [wanted]), ...Array.from({ length: 50 }, random)];
  for (const port of candidates) {
    if (taken.has(port)) continue;
    const free = await Promise.all(addresses.map((address) => isFree(address, port)));
    if (free.every(Boolean)) return port;
  }
  throw new Error(`No free TCP port on ${addresses.join(', ')} among ${candidates.join(', ')}`);
}

export function isFree(address: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', () => resolve(false));
    probe.listen({ host: address, port, exclusive: true }, () => probe.close(() => resolve(true)));
  });
}
