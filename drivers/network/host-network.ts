import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { BerthError } from '../../model/errors.ts';
import type { NetworkRef } from '../../model/vm.ts';
import { createKeyedSerializer } from '../host/keyed-serializer.ts';
import { run } from '../host/run-process.ts';
import type { HostNetwork } from '../ports/host-network.ts';
import { bridgeName, gatewayMac, guestMtu, vxlanName, withPrefixLength } from './addressing.ts';
import type { GuestFirewall } from './guest-firewall.ts';
import { sysctl } from './sysctl.ts';

interface NetworkOptions {
  /** This host's address on the hosts' network, over which the VXLANs run. */
  address: string;
  /** Has its rules in the kernel before an owner's bridge is there. */
  firewall: Pick<GuestFirewall, 'ensure'>;
  /** Addresses of the site's other machines now, to which broadcast frames are flooded; null: they are not known yet. */
  peers: () => readonly string[] | null;
  /** Of the bridge, whose address is the network's `gateway`; without it, that of the gateway, as on every host. */
  macOf?: (address: string) => string;
}

const deadlineMs = 15_000;
/** VXLAN's own port (RFC 7348). */
const vxlanPort = 4789;

const linksSchema = z.array(z.looseObject({ ifname: z.string(), master: z.string().optional() }));
const entriesSchema = z.array(z.looseObject({ mac: z.string(), dst: z.string().optional() }));

/** Owners' networks on this host (docs/decisions/0002). Acts on one network are serialized; all are repeatable. */
export function openNetwork(options: NetworkOptions): HostNetwork {
  const serialize = createKeyedSerializer<number>();
  // What this process has made or found complete; the kernel's links are checked before it is relied upon.
  const ensured = new Map<number, string>();
  /** The list that each network floods to, as this process has written it. */
  const flooding = new Map<number, readonly string[]>();

  async function flood(vni: number, peers: readonly string[], existed: boolean): Promise<void> {
    await updateFloodEntries(vni, peers, existed);
    flooding.set(vni, peers);
  }

  async function ensure(network: NetworkRef): Promise<string> {
    await options.firewall.ensure();
    const present = await linkNames();
    const bridge = bridgeName(network.vni);
    const peers = options.peers();
    const isPresent = present.has(bridge) && present.has(vxlanName(network.vni));
    // One that an earlier worker has made goes on with the peers that it has.
    if (peers === null && !isPresent)
      throw new BerthError('orders-unavailable', "the addresses of the site's other machines are not known yet");
    const desired = JSON.stringify([network.gateway, network.cidr, peers]);
    if (isPresent && ensured.get(network.vni) === desired) return bridge;
    await ensureLinks(network, options, present);
    if (peers !== null) await flood(network.vni, peers, present.has(vxlanName(network.vni)));
    ensured.set(network.vni, desired);
    return bridge;
  }

  /** Networks that are there learn of machines that were added to the site, or left it. */
  async function updatePeers(): Promise<void> {
    const peers = options.peers();
    if (peers === null) return;
    const vnis = [...(await linkNames())].flatMap((name) => vniOf(name) ?? []);
    for (const vni of vnis.filter((vni) => flooding.get(vni) !== peers))
      await serialize(vni, async () => {
        if ((await linkNames()).has(vxlanName(vni))) await flood(vni, peers, true);
      });
  }

  return {
    ensure: (network) => serialize(network.vni, () => ensure(network)),
    updatePeers,
    removeIfIdle: (vni, needed) =>
      serialize(vni, async () => {
        const present = await linkNames();
        const mine = [vxlanName(vni), bridgeName(vni)].filter((name) => present.has(name));
        if (mine.length === 0 || (await needed())) return;
        const taps = (await readLinks()).filter(({ ifname, master }) => master === bridgeName(vni) && ifname !== vxlanName(vni));
        if (taps.length > 0) return;
        ensured.delete(vni);
        flooding.delete(vni);
        await ip(mine.map((name) => `link delete dev ${name}`));
      }),
    async list() {
      const links = await readLinks();
      return links
        .filter(({ ifname }) => vniOf(ifname) !== null)
        .map(({ ifname: bridge }) => {
          const vni = vniOf(bridge)!;
          const ports = links.filter(({ master }) => master === bridge).map(({ ifname }) => ifname);
          return { bridge, vni, taps: ports.filter((port) => port !== vxlanName(vni)) };
        });
    },
  };
}

/** Of the network whose bridge has this name; null: it is no network's bridge. */
function vniOf(name: string): number | null {
  const [, digits] = /^bg([0-9a-f]{1,6})$/.exec(name) ?? [];
  return digits === undefined ? null : Number.parseInt(digits, 16);
}

/** Reads the names of the links without starting a program. */
async function linkNames(): Promise<Set<string>> {
  const text = await readFile('/proc/self/net/dev', 'utf8');
  return new Set([...text.matchAll(/^\s*([^\s:]+):/gm)].map((match) => match[1] ?? ''));
}

async function readLinks(): Promise<{ ifname: string; master?: string | undefined }[]> {
  const text = await run(['ip', '-json', 'link', 'show'], { deadlineMs, limitBytes: 16 * 2 ** 20 });
  return linksSchema.parse(JSON.parse(text === '' ? '[]' : text));
}

/** Several changes in one process; each line is one `ip` command. */
async function ip(lines: string[]): Promise<void> {
  await run(['ip', '-batch', '-'], { deadlineMs, input: `${lines.join('\n')}\n` });
}

/** Adds what is missing of the bridge and the VXLAN, then configures both. The bridge gets the gateway's address last. */
async function ensureLinks(
  { vni, cidr, gateway }: NetworkRef,
  { address, macOf }: NetworkOptions,
  present: Set<string>,
): Promise<void> {
  const mac = macOf?.(gateway) ?? gatewayMac;
  const bridge = bridgeName(vni);
  const vxlan = vxlanName(vni);
  const lines: string[] = [];
  if (!present.has(bridge)) lines.push(`link add ${bridge} type bridge`);
  if (!present.has(vxlan)) lines.push(`link add ${vxlan} type vxlan id ${vni} local ${address} dstport ${vxlanPort}`);
  lines.push(
    `link set dev ${bridge} address ${mac} mtu ${guestMtu} type bridge stp_state 0 mcast_snooping 0`,
    `link set dev ${bridge} addrgenmode none`,
    `link set dev ${vxlan} mtu ${guestMtu} addrgenmode none master ${bridge}`,
    `link set dev ${vxlan} type bridge_slave learning on`,
    `address replace ${withPrefixLength(gateway, cidr)} dev ${bridge}`,
    `link set dev ${vxlan} up`,
    `link set dev ${bridge} up`,
  );
  await ip(lines);
  // Strict reverse path filter: packets with a source outside this network are dropped.
  await sysctl(`net/ipv4/conf/${bridge}/rp_filter`, '1');
  await sysctl(`net/ipv4/conf/${bridge}/send_redirects`, '0');
  await sysctl(`net/ipv6/conf/${bridge}/disable_ipv6`, '1');
  await sysctl(`net/ipv6/conf/${vxlan}/disable_ipv6`, '1');
}

/** Frames with an unknown destination are flooded to the peers alone. */
async function updateFloodEntries(vni: number, peers: readonly string[], existed: boolean): Promise<void> {
  const vxlan = vxlanName(vni);
  const text = existed ? await run(['bridge', '-json', 'fdb', 'show', 'dev', vxlan], { deadlineMs }) : '';
  const entries = entriesSchema.parse(JSON.parse(text === '' ? '[]' : text));
  const flood = '00:00:00:00:00:00';
  const present = new Set(entries.filter(({ mac, dst }) => mac === flood && dst !== undefined).map(({ dst }) => dst));
  const lines = [
    ...peers.filter((peer) => !present.has(peer)).map((peer) => `fdb append ${flood} dev ${vxlan} dst ${peer}`),
    ...[...present].filter((dst) => !peers.includes(dst ?? '')).map((dst) => `fdb delete ${flood} dev ${vxlan} dst ${dst}`),
  ];
  if (lines.length > 0) await run(['bridge', '-batch', '-'], { deadlineMs, input: `${lines.join('\n')}\n` });
}
