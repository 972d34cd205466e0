import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import '../seed.ts';
import type { Probe, Reach } from './real/machine.ts';
import { type Machine, startMachine } from './real/machines.ts';

/**
 * Guests and hosts that are network namespaces, with the rules of a real host. The hosts' only way out leads to a namespace
 * that answers at every address and port: a packet that gets through is seen, and stays here.
 */
const network = { vni: 0x21, cidr: '10.128.16.0/22', gateway: '10.128.16.1' };
const hostAddresses = ['10.77.0.1', '10.77.0.2'];
const outsideAddress = '10.77.0.254';
/** Other machines of the hosts' network: the namespace outside has their addresses. */
const otherMachines = [outsideAddress, '10.77.0.9'];
const guestAddresses = ['10.128.16.10', '10.128.16.11'];
const usual: Reach = {
  hostsCidr: '10.77.0.0/24',
  guestSupernet: '10.128.0.0/9',
  nameservers: ['10.255.255.53'],
  siteHosts: [],
  siteCidrs: [],
  exceptions: [],
};
const echoPort = 9;
const deniedRanges = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '100.64.0.0/10', '169.254.0.0/16'];

let outside: Machine;
let hosts: Machine[];
let guests: Machine[];

/** The guest's card on a host: its name there, and the host. */
const cardOf = (guest: number): string => `bt${guest}`;

async function plug(guest: number, host: number): Promise<void> {
  await hosts[host]!.ip(`link set ${cardOf(guest)} master bg21 up`);
}

const startWorker = (host: number, reach: Partial<Reach> = {}, names: Record<string, string[]> = {}): Promise<void> =>
  hosts[host]!.call('startWorker', { ...usual, ...reach }, names);

beforeAll(async () => {
  const machines = await Promise.all(Array.from({ length: 5 }, () => startMachine()));
  outside = machines[0]!;
  hosts = machines.slice(1, 3);
  guests = machines.slice(3);
  await outside.call('set', 'net/bridge/bridge-nf-call-iptables', '0');
  await outside.ip(
    'link add wire mtu 1600 type bridge forward_delay 0',
    'link set wire up',
    ...otherMachines.map((address) => `address add ${address}/24 dev wire`),
  );
  const answering = ['tcp', 'udp'].map((protocol) => `-A PREROUTING -i wire -p ${protocol} -j REDIRECT --to-ports ${echoPort}`);
  const rest = '-A PREROUTING -i wire -j REDIRECT';
  await outside.on(['iptables-restore'], `${['*nat', ...answering, rest, 'COMMIT'].join('\n')}\n`);
  await outside.call('echo', echoPort);
  for (const [index, host] of hosts.entries()) {
    await host.ip(`link add eth0 mtu 1600 type veth peer name host${index} mtu 1600 netns ${outside.pid}`);
    await outside.ip(`link set host${index} master wire up`);
    await host.ip(
      `address add ${hostAddresses[index]}/24 dev eth0`,
      'link set eth0 up',
      `route add default via ${outsideAddress}`,
    );
    await host.call('echo', 2049);
    await startWorker(index);
    await host.call('ensureNetwork', hostAddresses[index]!, { ...network, peers: [hostAddresses[1 - index]!] });
  }
  for (const [index, guest] of guests.entries()) {
    await hosts[index]!.ip(`link add ${cardOf(index)} mtu 1450 type veth peer name eth0 mtu 1450 netns ${guest.pid}`);
    await plug(index, index);
    await guest.ip(
      'link set eth0 up',
      `address add ${guestAddresses[index]}/22 dev eth0`,
      `route add default via ${network.gateway}`,
    );
    await guest.call('echo', 7000);
  }
}, 60_000);
afterAll(() => Promise.all([outside, ...(hosts ?? []), ...(guests ?? [])].map((machine) => machine?.end())));

const tcp = (address: string, port = 443): Probe => ({ protocol: 'tcp', address, port });
const udp = (address: string, port = 443): Probe => ({ protocol: 'udp', address, port });
const text = ({ protocol, address, port }: Probe): string => `${address}:${port}/${protocol}`;

/** Those of them that answer to the first guest. */
async function answering(probes: Probe[], expected: number): Promise<string[]> {
  return (await guests[0]!.call('probe', probes, expected)).map((index) => text(probes[index]!));
}

/** A configuration for the host, and the parts of it that the model reads. */
interface Configuration {
  hostsCidr: string;
  nameservers: string[];
  site: string[];
  siteCidrs: string[];
  exceptions: { cidr: string; ports: [number, number] | null; protocol: 'tcp' | 'udp' | null }[];
}

const inside = (address: string, range: string): boolean => {
  const [base, prefix] = range.includes('/') ? ipaddr.IPv4.parseCIDR(range) : [ipaddr.IPv4.parse(range), 32];
  return ipaddr.IPv4.parse(address).match(base as ipaddr.IPv4, prefix as number);
};

/** What docs/networks.md says that a guest reaches. */
function answers(configuration: Configuration, { protocol, address, port }: Probe): boolean {
  const { hostsCidr, nameservers, site, siteCidrs, exceptions } = configuration;
  if (port === 53 && nameservers.includes(address)) return true;
  if ([usual.guestSupernet, hostsCidr, ...site, ...siteCidrs].some((range) => inside(address, range))) return false;
  const opened = exceptions.some(
    ({ cidr, ports, protocol: only }) =>
      inside(address, cidr) && (ports === null || (ports[0] <= port && port <= ports[1])) && (only === null || only === protocol),
  );
  return opened || !deniedRanges.some((range) => inside(address, range));
}

const toAddress = (number: number): string => [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join('.');
const toNumber = (address: string): number => address.split('.').reduce((sum, byte) => sum * 256 + Number(byte), 0);
const bounds = (range: string): [number, number] => {
  const [base, prefix = '32'] = range.split('/');
  return [toNumber(base!), toNumber(base!) + 2 ** (32 - Number(prefix)) - 1];
};

/** That a packet can be sent to there, and that something answers there. */
function isAnswered(address: string): boolean {
  const first = Number(address.split('.')[0]);
  if (first === 0 || first === 127 || first > 223) return false;
  if (inside(address, network.cidr)) return false;
  return !inside(address, '10.77.0.0/24') || otherMachines.includes(address);
}

const within = (range: string): fc.Arbitrary<string> => {
  const [first, last] = bounds(range);
  return fc.integer({ min: first, max: last }).map(toAddress);
};
/** The first and the last address of a range, and those before and behind it. */
const edges = (range: string): fc.Arbitrary<string> => {
  const [first, last] = bounds(range);
  return fc.constantFrom(...[first - 1, first, last, last + 1].filter((number) => number > 0).map(toAddress));
};
const near = (ranges: readonly string[]): fc.Arbitrary<string> =>
  fc.constantFrom(...ranges).chain((range) => fc.oneof(within(range), edges(range)));
const anyAddress = within('0.0.0.0/0');
const denied = near(deniedRanges);
const port = fc.oneof(fc.constantFrom(22, 53, 443, 2049, 5432, 7233, 8080), fc.integer({ min: 1, max: 65_535 }));

const cidrNear = (address: fc.Arbitrary<string>, shortest: number): fc.Arbitrary<string> =>
  fc.tuple(address, fc.integer({ min: shortest, max: 32 })).map(([inIt, prefix]) => {
    const size = 2 ** (32 - prefix);
    return `${toAddress(Math.floor(toNumber(inIt) / size) * size)}/${prefix}`;
  });

const exception = fc.record({
  cidr: cidrNear(denied.filter(isAnswered), 8),
  ports: fc.option(fc.tuple(port, port).map(([a, b]): [number, number] => [Math.min(a, b), Math.max(a, b)])),
  protocol: fc.constantFrom('tcp' as const, 'udp' as const, null),
});
/** A protocol is written with ports alone. */
const written = exception.map((one) => (one.ports === null ? { ...one, protocol: null } : one));

const textOf = ({ cidr, ports, protocol }: Configuration['exceptions'][number]): string =>
  [cidr, ports === null ? '' : `:${ports.join('-')}`, protocol === null ? '' : `/${protocol}`].join('');

const usable = (address: fc.Arbitrary<string>): fc.Arbitrary<string> => address.filter(isAnswered);
const configuration: fc.Arbitrary<Configuration> = fc.record({
  hostsCidr: fc.oneof(fc.constant('10.77.0.0/24'), cidrNear(anyAddress, 16)),
  nameservers: fc.array(usable(fc.oneof(denied, anyAddress, within(usual.guestSupernet), fc.constantFrom(...otherMachines))), {
    maxLength: 3,
  }),
  site: fc.array(usable(fc.oneof(denied, anyAddress)), { maxLength: 3 }),
  siteCidrs: fc.array(cidrNear(anyAddress, 16), { maxLength: 2 }),
  exceptions: fc.array(written, { maxLength: 4 }),
});

/** Around everything that the configuration names, and elsewhere. */
function probesFor({ hostsCidr, nameservers, site, siteCidrs, exceptions }: Configuration): fc.Arbitrary<Probe[]> {
  const named = [hostsCidr, usual.guestSupernet, ...nameservers, ...site, ...siteCidrs, ...exceptions.map(({ cidr }) => cidr)];
  const address = fc.oneof(denied, anyAddress, near(named), fc.constantFrom(...otherMachines));
  const edgesOfPorts = exceptions.flatMap(({ ports }) => (ports === null ? [] : [ports[0] - 1, ...ports, ports[1] + 1]));
  const ports = [53, 52, 54, ...edgesOfPorts].filter((number) => number >= 1 && number <= 65_535);
  return fc.array(
    fc.record({
      protocol: fc.constantFrom('tcp' as const, 'udp' as const),
      address: usable(address),
      port: fc.oneof(port, fc.constantFrom(...ports)),
    }),
    { minLength: 60, maxLength: 60 },
  );
}

describe('what a guest reaches', () => {
  it('is by default what is public, and the DNS ports of the resolvers', async () => {
    await startWorker(0);
    const allowed = [
      ...['9.255.255.255', '11.0.0.0', '172.15.255.255', '172.32.0.0', '192.167.255.255', '192.169.0.0'].map((one) => tcp(one)),
      ...['100.63.255.255', '100.128.0.0', '169.253.255.255', '169.255.0.0', '203.0.113.80'].map((one) => udp(one)),
      tcp('10.255.255.53', 53),
      udp('10.255.255.53', 53),
    ];
    const silent = [
      ...deniedRanges.flatMap((range) => bounds(range).map(toAddress)).flatMap((one) => [tcp(one, 80), udp(one, 80)]),
      ...[tcp('10.255.255.53', 443), udp('10.255.255.53', 5353), tcp('10.255.255.54', 53), tcp('169.254.169.254', 80)],
      ...otherMachines.map((one) => tcp(one, 7233)),
      // The host itself, and its address in the guest's own network.
      ...[tcp(hostAddresses[0]!, 2049), tcp(network.gateway, 2049), tcp(hostAddresses[1]!, 2049), udp(hostAddresses[0]!, 2049)],
    ];
    expect(await answering([...silent, ...allowed], allowed.length)).toEqual(allowed.map(text));
  });

  it('is the same for packets without ports', async () => {
    await startWorker(0, { exceptions: ['10.9.0.0/16', '192.168.7.0/24:1-65535'] });
    const ping = (address: string): Promise<boolean> =>
      guests[0]!.on(['ping', '-c', '1', '-W', '1', address]).then(
        () => true,
        () => false,
      );
    const pinged = ['203.0.113.80', '10.9.1.1', '10.8.1.1', '192.168.7.1', '100.64.0.1', '169.254.169.254', outsideAddress];
    expect(await Promise.all(pinged.map(ping))).toEqual([true, true, false, false, false, false, false]);
  });

  it('is what the configuration says, of any addresses and ports', async () => {
    let probed = 0;
    let answered = 0;
    await fc.assert(
      fc.asyncProperty(
        configuration.chain((one) => fc.tuple(fc.constant(one), probesFor(one))),
        async ([config, probes]) => {
          const { hostsCidr, nameservers, site: siteHosts, siteCidrs } = config;
          await startWorker(0, { hostsCidr, nameservers, siteHosts, siteCidrs, exceptions: config.exceptions.map(textOf) });
          const expected = probes.filter((probe) => answers(config, probe));
          expect(await answering(probes, expected.length)).toEqual(expected.map(text));
          probed += probes.length;
          answered += expected.length;
        },
      ),
      // In a usual run without shrinking, which would report a failure minutes later.
      { numRuns: Number(process.env.BERTH_PROPERTY_RUNS ?? 20), endOnFailure: process.env.BERTH_PROPERTY_RUNS === undefined },
    );
    // Both kinds are plenty.
    expect([answered > probed / 10, answered < (probed * 9) / 10]).toEqual([true, true]);
  }, 240_000);
});

describe("the site's names", () => {
  const name = 'temporal.site.test';
  const both = [tcp('203.0.113.50', 7233), tcp('203.0.113.51', 7233)];

  it('are refused at the addresses that they have, and that they had', async () => {
    await startWorker(0, { siteHosts: [name, '203.0.113.5'] }, { [name]: ['203.0.113.50'] });
    expect(await answering([...both, tcp('203.0.113.5')], 1)).toEqual([text(both[1]!)]);
    await hosts[0]!.call('refresh', { [name]: ['203.0.113.51'] });
    expect(await answering([...both, tcp('203.0.113.52')], 1)).toEqual(['203.0.113.52:443/tcp']);
    await expect(hosts[0]!.call('refresh', {})).rejects.toThrow(`no address of ${name}`);
    expect(await answering([...both, tcp('203.0.113.52')], 1)).toEqual(['203.0.113.52:443/tcp']);
  });

  it('let no guest start as long as one is not known, and the other rules apply meanwhile', async () => {
    await startWorker(0, { exceptions: ['10.1.2.3'] });
    expect(await answering([tcp('10.1.2.3')], 1)).toEqual(['10.1.2.3:443/tcp']);
    await expect(startWorker(0, { siteHosts: [name] })).rejects.toThrow(`no address of ${name}`);
    expect(await answering([tcp('10.1.2.3'), tcp('203.0.113.5')], 1)).toEqual(['203.0.113.5:443/tcp']);
    const peers = { ...network, peers: [hostAddresses[1]!] };
    await expect(hosts[0]!.call('ensureNetwork', hostAddresses[0]!, peers)).rejects.toThrow(`no address of ${name}`);
    await hosts[0]!.call('refresh', { [name]: ['203.0.113.50'] });
    expect(await hosts[0]!.call('ensureNetwork', hostAddresses[0]!, peers)).toBe('bg21');
  });
});

/** The filter rules of a host worker that had no exceptions, and denied guests the link-local addresses alone. */
const earlierRules = `*filter
:BERTH-GUEST - [0:0]
:BERTH-GUEST-IN - [0:0]
-A BERTH-GUEST -i bg+ -o bg+ -j DROP
-A BERTH-GUEST -i bg+ -d 10.128.0.0/9 -j DROP
-A BERTH-GUEST -i bg+ -d 10.77.0.0/24 -j DROP
-A BERTH-GUEST -i bg+ -d 169.254.0.0/16 -j DROP
-A BERTH-GUEST -i bg+ ! -s 10.128.0.0/9 -j DROP
-A BERTH-GUEST -i bg+ -j ACCEPT
-A BERTH-GUEST -o bg+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A BERTH-GUEST -o bg+ -j DROP
-A BERTH-GUEST-IN -i bg+ -j DROP
COMMIT
`;

describe('a change of the rules', () => {
  const forwarding = async (): Promise<string[]> =>
    (await hosts[0]!.on(['iptables', '-S', 'FORWARD'])).split('\n').filter((line) => line.startsWith('-A'));

  it('replaces those of an earlier version, and ends what they had let through', async () => {
    await hosts[0]!.on(['iptables-restore', '--noflush'], earlierRules);
    const temporal = '10.1.2.3';
    const open = await guests[0]!.call('open', temporal, 7233);
    expect(await guests[0]!.call('isAlive', open, 10_000)).toBe(true);
    await startWorker(0);
    expect(await guests[0]!.call('isAlive', open, 1000)).toBe(false);
    expect(await answering([tcp(temporal, 7233), tcp('203.0.113.80')], 1)).toEqual(['203.0.113.80:443/tcp']);
    expect(await forwarding()).toEqual(['-A FORWARD -j BERTH-GUEST']);
  });

  it('puts them before what another program has put before them', async () => {
    await hosts[0]!.on(['iptables', '-I', 'FORWARD', '1', '-i', 'bg+', '-j', 'ACCEPT']);
    try {
      expect(await answering([tcp('10.1.2.3')], 1)).toEqual(['10.1.2.3:443/tcp']);
      await hosts[0]!.call('refresh');
      expect(await answering([tcp('10.1.2.3'), tcp('203.0.113.80')], 1)).toEqual(['203.0.113.80:443/tcp']);
      await hosts[0]!.on(['iptables', '-A', 'FORWARD', '-j', 'BERTH-GUEST']);
      await hosts[0]!.call('refresh');
      expect(await forwarding()).toEqual(['-A FORWARD -j BERTH-GUEST', '-A FORWARD -i bg+ -j ACCEPT']);
    } finally {
      await hosts[0]!.on(['iptables', '-D', 'FORWARD', '-i', 'bg+', '-j', 'ACCEPT']);
    }
  });

  it('leaves no moment without rules, and loses no packet of what is reached before and after it', async () => {
    await startWorker(0, { exceptions: ['10.9.0.0/16'] });
    const forMs = 4000;
    let over = false;
    const sending = Promise.all([
      guests[0]!.call('send', '10.1.2.3', 443, forMs),
      guests[0]!.call('send', '10.9.1.2', 443, forMs),
    ]).finally(() => {
      over = true;
    });
    let changes = 0;
    for (; !over; changes += 1)
      await startWorker(0, { exceptions: ['10.9.0.0/16', ...(changes % 2 === 0 ? ['10.10.0.0/16'] : [])] });
    const [silent, reached] = await sending;
    expect(changes).toBeGreaterThan(3);
    expect(silent.sent).toBeGreaterThan(100);
    expect(silent.back).toBe(0);
    expect(reached).toEqual({ sent: reached.sent, back: reached.sent });
  });

  it('breaks no connection between guests of one owner, also one that has moved', async () => {
    const connection = await guests[0]!.call('open', guestAddresses[1]!, 7000);
    const alive = (): Promise<boolean> => guests[0]!.call('isAlive', connection, 15_000);
    expect(await alive()).toBe(true);
    await Promise.all([startWorker(0), startWorker(1)]);
    expect(await alive()).toBe(true);
    // The guest's end of its card stays with it, as in a live migration; the guest announces itself.
    for (const [from, to] of [
      [1, 0],
      [0, 1],
    ] as const) {
      await hosts[from]!.ip(`link set ${cardOf(1)} netns ${hosts[to]!.pid}`);
      await plug(1, to);
      await guests[1]!.on(['sh', '-c', `ping -c 1 -W 1 ${guestAddresses[0]} || true`]);
      await startWorker(to, { exceptions: ['10.9.0.0/16'] });
      expect(await alive()).toBe(true);
    }
  });
});

describe('what reaches a guest', () => {
  it('is its own segment alone', async () => {
    // The hosts' network routes the guests' addresses to the host, as a wrong router would.
    // From a public address, so that an answer would find its way.
    await outside.ip(
      'address add 203.0.113.99/32 dev lo',
      `route replace ${network.cidr} via ${hostAddresses[0]} src 203.0.113.99`,
    );
    const guest = [tcp(guestAddresses[0]!, 7000), udp(guestAddresses[0]!, 7000)];
    expect(await outside.call('probe', guest, 0)).toEqual([]);
    expect(await guests[1]!.call('probe', guest, 2)).toEqual([0, 1]);
  });
});

it("has networks that are there flood to the site's machines of now, and makes none before it knows them", async () => {
  const [host] = hosts;
  const address = hostAddresses[0]!;
  const flooded = async (): Promise<string[]> => {
    const text = await host!.on(['bridge', '-json', 'fdb', 'show', 'dev', 'vx21'], '');
    const entries = JSON.parse(text) as { mac: string; dst?: string }[];
    return entries.flatMap(({ mac, dst }) => (mac === '00:00:00:00:00:00' && dst !== undefined ? [dst] : [])).toSorted();
  };
  const before = hostAddresses.slice(1);
  await host!.call('ensureNetwork', address, { ...network, peers: before });
  expect(await flooded()).toEqual(before);
  const grown = [...before, '10.90.0.250', '10.90.0.251'].toSorted();
  await host!.call('updatePeers', address, grown);
  expect(await flooded()).toEqual(grown);
  await host!.call('updatePeers', address, before);
  expect(await flooded()).toEqual(before);
  // A worker that has not heard from the API leaves what is there, and makes nothing.
  expect(await host!.call('ensureNetwork', address, { ...network, peers: null })).toBe('bg21');
  expect(await flooded()).toEqual(before);
  await expect(host!.call('ensureNetwork', address, { ...network, vni: 0x99, peers: null })).rejects.toThrow('are not known yet');
});
