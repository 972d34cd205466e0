import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import '../seed.ts';
import type { EdgeOrders, PortOrder } from '../../contracts/edge.ts';
import { fullTest } from '../full-test.ts';
import type { Probe } from './real/machine.ts';
import { type Machine, startMachine } from './real/machines.ts';

/**
 * Two hosts with guests of two owners, two edges, and the outside, as network namespaces, with the edge's own rules. Clients are
 * addresses of the namespace outside.
 */
const owners = [
  { vni: 0x21, cidr: '10.128.16.0/22', gateway: '10.128.16.1', guest: '10.128.16.10', edges: ['10.128.19.254', '10.128.19.253'] },
  { vni: 0x22, cidr: '10.128.32.0/22', gateway: '10.128.32.1', guest: '10.128.32.10', edges: ['10.128.35.254', '10.128.35.253'] },
] as const;
const hostAddresses = ['10.77.0.1', '10.77.0.2'];
const edgeAddresses = ['10.77.0.221', '10.77.0.222'];
const publicAddresses = ['10.77.0.230', '10.77.0.231'];
const clients = ['10.77.0.254', '10.77.0.9', '198.51.100.7', '203.0.113.99'];
const outsideAddress = clients[0]!;
const openPort = 22;

let outside: Machine;
let hosts: Machine[];
let edges: Machine[];
let guests: Machine[];

const reach = {
  hostsCidr: '10.77.0.0/24',
  guestSupernet: '10.128.0.0/9',
  nameservers: [],
  siteHosts: [],
  siteCidrs: [],
  exceptions: [],
};

async function plugIntoWire(machine: Machine, name: string, address: string): Promise<void> {
  await machine.ip(`link add eth0 mtu 1600 type veth peer name ${name} mtu 1600 netns ${outside.pid}`);
  await outside.ip(`link set ${name} master wire up`);
  await machine.ip(`address add ${address}/24 dev eth0`, 'link set eth0 up', `route add default via ${outsideAddress}`);
}

beforeAll(async () => {
  const machines = await Promise.all(Array.from({ length: 7 }, () => startMachine()));
  outside = machines[0]!;
  hosts = machines.slice(1, 3);
  edges = machines.slice(3, 5);
  guests = machines.slice(5);
  await outside.call('set', 'net/bridge/bridge-nf-call-iptables', '0');
  await outside.ip(
    'link add wire mtu 1600 type bridge forward_delay 0',
    'link set wire up',
    ...clients.map((address) => `address add ${address}/${address.startsWith('10.77.') ? 24 : 32} dev wire`),
  );
  for (const [index, host] of hosts.entries()) {
    await plugIntoWire(host, `host${index}`, hostAddresses[index]!);
    await host.call('startWorker', reach);
    for (const { vni, cidr, gateway } of owners)
      await host.call('ensureNetwork', hostAddresses[index]!, {
        vni,
        cidr,
        gateway,
        peers: [...hostAddresses, ...edgeAddresses].filter((address) => address !== hostAddresses[index]),
      });
  }
  for (const [index, edge] of edges.entries()) {
    await plugIntoWire(edge, `edge${index}`, edgeAddresses[index]!);
    await edge.call('startEdge', edgeAddresses[index]!, 'eth0', [openPort]);
  }
  for (const [index, guest] of guests.entries()) {
    await hosts[index]!.ip(`link add ${cardOf(index)} mtu 1450 type veth peer name eth0 mtu 1450 netns ${guest.pid}`);
    await plug(index, index);
    const { guest: address, gateway } = owners[index]!;
    await guest.ip('link set eth0 up', `address add ${address}/22 dev eth0`, `route add default via ${gateway}`);
    await guest.call('echo', 7000);
  }
}, 90_000);
afterAll(() => Promise.all([outside, ...hosts, ...edges, ...guests].map((machine) => machine?.end())));

const cardOf = (guest: number): string => `bt${guest}`;
const plug = (guest: number, host: number): Promise<void> =>
  hosts[host]!.ip(`link set ${cardOf(guest)} master bg${owners[guest]!.vni.toString(16)} up`);

/** A port of the guest of an owner. */
const portOf = (owner: number, publicPort: number, more: Partial<PortOrder> = {}): PortOrder => ({
  id: `port_${owner}_${publicPort}`,
  vni: owners[owner]!.vni,
  protocol: 'tcp',
  publicAddress: publicAddresses[0]!,
  publicPort,
  address: owners[owner]!.guest,
  port: 7000,
  allow: [],
  digest: '',
  ...more,
});

const ordersOf = (ports: PortOrder[], edge = 0): EdgeOrders => ({
  publicAddresses,
  peers: hostAddresses,
  segments: owners
    .filter(({ vni }) => ports.some((port) => port.vni === vni))
    .map(({ vni, cidr, edges: addresses }) => ({ vni, cidr, address: addresses[edge]! })),
  ports,
});

/** The first edge has the public addresses for as long as the act takes. */
async function withAddresses<T>(act: () => Promise<T>): Promise<T> {
  await edges[0]!.call('holdAddresses', publicAddresses);
  const extending = setInterval(() => void edges[0]!.call('holdAddresses', publicAddresses), 500);
  try {
    return await act();
  } finally {
    clearInterval(extending);
  }
}

const apply = (ports: PortOrder[]): Promise<void> => edges[0]!.call('applyOrders', ordersOf(ports));
const text = ({ protocol, address, port, from }: Probe): string => `${from ?? ''} ${address}:${port}/${protocol}`;
async function answering(probes: Probe[], expected: number): Promise<string[]> {
  return (await outside.call('probe', probes, expected)).map((index) => text(probes[index]!));
}

const inside = (address: string, cidr: string): boolean => ipaddr.IPv4.parse(address).match(ipaddr.IPv4.parseCIDR(cidr));
/** What docs/edges.md says that a client reaches. */
const answers = (ports: PortOrder[], { protocol, address, port, from }: Probe): boolean =>
  (edgeAddresses[0] === address && protocol === 'tcp' && port === openPort) ||
  ports.some(
    (one) =>
      one.publicAddress === address &&
      one.publicPort === port &&
      one.protocol === protocol &&
      (one.allow.length === 0 || one.allow.some((cidr) => inside(from!, cidr))),
  );

const protocol = fc.constantFrom('tcp' as const, 'udp' as const);
const publicPort = fc.integer({ min: 20_000, max: 20_015 });
const cidrNear = fc.tuple(fc.constantFrom(...clients), fc.constantFrom(0, 8, 24, 28, 32)).map(([address, prefix]) => {
  const cidr = `${address}/${prefix}`;
  return `${ipaddr.IPv4.networkAddressFromCIDR(cidr).toString()}/${prefix}`;
});
const publishedPorts: fc.Arbitrary<PortOrder[]> = fc.uniqueArray(
  fc
    .record({
      owner: fc.constantFrom(0, 1),
      publicPort,
      protocol,
      publicAddress: fc.constantFrom(...publicAddresses),
      port: fc.constantFrom(7000, 80, 65_535),
      allow: fc.array(cidrNear, { maxLength: 3 }),
    })
    .map(({ owner, publicPort: number, ...more }) => portOf(owner, number, more)),
  { maxLength: 12, selector: (one) => `${one.publicAddress} ${one.publicPort} ${one.protocol}` },
);
/** To public ports, to the edge itself, and past it to guests: the outside has a route to the segments over the edge. */
const probe: fc.Arbitrary<Probe> = fc.record({
  protocol,
  address: fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(...publicAddresses) },
    { weight: 1, arbitrary: fc.constantFrom(edgeAddresses[0]!, ...owners.flatMap(({ guest, edges: own }) => [guest, own[0]])) },
  ),
  port: fc.oneof({ weight: 6, arbitrary: publicPort }, { weight: 1, arbitrary: fc.constantFrom(openPort, 80, 4789, 7000, 9464) }),
  from: fc.constantFrom(...clients),
});

describe('what an edge lets through', () => {
  it('is what is published, for its clients, and nothing else', async () => {
    await outside.ip(...owners.map(({ cidr }) => `route replace ${cidr} via ${edgeAddresses[0]}`));
    let [probed, answered] = [0, 0];
    await withAddresses(() =>
      fc.assert(
        fc.asyncProperty(publishedPorts, fc.array(probe, { minLength: 60, maxLength: 60 }), async (ports, probes) => {
          await apply(ports);
          const expected = probes.filter((one) => answers(ports, one));
          expect((await answering(probes, expected.length)).toSorted()).toEqual(expected.map(text).toSorted());
          probed += probes.length;
          answered += expected.length;
        }),
        { numRuns: Number(process.env.BERTH_PROPERTY_RUNS ?? 15), endOnFailure: process.env.BERTH_PROPERTY_RUNS === undefined },
      ),
    );
    await outside.ip(...owners.map(({ cidr }) => `route delete ${cidr} via ${edgeAddresses[0]}`));
    expect([answered > probed / 30, answered < probed]).toEqual([true, true]);
  }, 240_000);

  it('leaves out what a guest sends to the edge or past it', async () => {
    await apply([portOf(0, 20_000), portOf(1, 20_001)]);
    const [own, other] = owners;
    const past = [outsideAddress, publicAddresses[0]!, edgeAddresses[0]!, other.guest, other.edges[0], hostAddresses[1]!];
    await guests[0]!.ip(...past.map((address) => `route add ${address}/32 via ${own.edges[0]}`));
    await outside.call('echo', 9000);
    const probes = [...past, own.edges[0]].flatMap((address): Probe[] =>
      [22, 53, 7000, 9000, 20_000, 20_001].flatMap((port) => [
        { protocol: 'tcp', address, port },
        { protocol: 'udp', address, port },
      ]),
    );
    await withAddresses(async () => expect(await guests[0]!.call('probe', probes, 0)).toEqual([]));
    await guests[0]!.ip(...past.map((address) => `route delete ${address}/32 via ${own.edges[0]}`));
  });

  it('ends what is open when a port is withdrawn, or given other clients', async () => {
    await withAddresses(async () => {
      await apply([portOf(0, 20_000), portOf(0, 20_001)]);
      const [kept, ended] = [
        await outside.call('open', publicAddresses[0]!, 20_000),
        await outside.call('open', publicAddresses[0]!, 20_001),
      ];
      expect(await Promise.all([kept, ended].map((one) => outside.call('isAlive', one, 10_000)))).toEqual([true, true]);
      await apply([portOf(0, 20_000), portOf(0, 20_001, { allow: ['198.51.100.0/24'] })]);
      expect(await outside.call('isAlive', ended, 1000)).toBe(false);
      expect(await outside.call('isAlive', kept, 10_000)).toBe(true);
      await apply([]);
      expect(await outside.call('isAlive', kept, 1000)).toBe(false);
    });
  });

  it('is so many connections of a client, and of all clients of an owner, however often the rules change', async () => {
    const [first, other] = clients as [string, string];
    const startEdge = (perClient: number, perOwner: number): Promise<void> =>
      edges[0]!.call('startEdge', edgeAddresses[0]!, 'eth0', [openPort], { perClient, perOwner });
    const reached = (from: string, publicPort: number): Promise<string[]> =>
      answering([{ protocol: 'tcp', address: publicAddresses[0]!, port: publicPort, from }], from === first ? 0 : 1);
    const ports = [portOf(0, 20_000), portOf(1, 20_001)];
    await withAddresses(async () => {
      for (const [perClient, perOwner] of [
        [5, 100],
        [100, 5],
      ] as const) {
        await startEdge(perClient, perOwner);
        await apply(ports);
        const held = [];
        for (let n = 0; n < 5; n += 1) held.push(await outside.call('open', publicAddresses[0]!, 20_000));
        expect(await reached(first, 20_000)).toEqual([]);
        await apply([...ports, portOf(0, 20_002)]);
        expect(await reached(first, 20_000)).toEqual([]);
        expect(await Promise.all(held.map((one) => outside.call('isAlive', one, 5000)))).not.toContain(false);
        // Another client, unless all of them are too many; and another owner's port.
        const others = await answering([{ protocol: 'tcp', address: publicAddresses[0]!, port: 20_000, from: other }], 0);
        expect(others).toHaveLength(perOwner === 5 ? 0 : 1);
        expect(await reached(other, 20_001)).toHaveLength(1);
        await apply([]);
      }
      await startEdge(4096, 32_768);
    });
  });

  it('leads a sender that goes on to what is published there now', async () => {
    const from = clients[1]!;
    await withAddresses(async () => {
      await apply([portOf(0, 20_000, { protocol: 'udp' })]);
      const sending = outside.call('send', publicAddresses[0]!, 20_000, 3000);
      await apply([portOf(1, 20_000, { protocol: 'udp', allow: ['10.77.0.0/24'] })]);
      const { sent, back } = await sending;
      expect(sent).toBeGreaterThan(100);
      // What was on its way in the moment of the change is lost.
      expect(back).toBeGreaterThan(sent * 0.8);
      expect(await answering([{ protocol: 'udp', address: publicAddresses[0]!, port: 20_000, from }], 1)).toHaveLength(1);
    });
  });

  fullTest(
    'is ten thousand ports where there are so many, while the edge keeps its addresses',
    async () => {
      const many = Array.from({ length: 10_000 }, (_, n) => portOf(n % 2, 20_000 + n));
      await withAddresses(async () => {
        const sinceMs = performance.now();
        await apply(many);
        const tookMs = Math.round(performance.now() - sinceMs);
        const last = [many.at(-2)!, many.at(-1)!].map(
          ({ publicPort: port }): Probe => ({ protocol: 'tcp', address: publicAddresses[0]!, port }),
        );
        expect(await answering(last, 2)).toHaveLength(2);
        const connectedMs = performance.now();
        const connection = await outside.call('open', publicAddresses[0]!, 29_999);
        expect(await outside.call('isAlive', connection, 10_000)).toBe(true);
        console.log(
          `10,000 ports were there after ${tookMs} ms; a connection to the last took ${Math.round(performance.now() - connectedMs)} ms`,
        );
        await apply(many.slice(0, -1));
        expect(await outside.call('isAlive', connection, 2000)).toBe(false);
        await apply([]);
      });
    },
    300_000,
  );

  it('is replaced without a moment in which a packet is lost or anything else passes', async () => {
    await withAddresses(async () => {
      await apply([portOf(0, 20_000, { protocol: 'udp' })]);
      let over = false;
      const sending = Promise.all([
        outside.call('send', publicAddresses[0]!, 20_000, 3000),
        outside.call('send', publicAddresses[0]!, 20_005, 3000),
      ]).finally(() => {
        over = true;
      });
      let changes = 0;
      for (; !over; changes += 1)
        await apply([portOf(0, 20_000, { protocol: 'udp' }), ...(changes % 2 === 0 ? [portOf(1, 20_001)] : [])]);
      const [published, silent] = await sending;
      expect(changes).toBeGreaterThan(3);
      expect(published).toEqual({ sent: published.sent, back: published.sent });
      expect(silent.back).toBe(0);
    });
  });
});

describe('a connection through an edge', () => {
  it('outlives the moves of its guest and the end of the edge worker', async () => {
    await withAddresses(async () => {
      await apply([portOf(0, 20_000)]);
      const connection = await outside.call('open', publicAddresses[0]!, 20_000);
      const alive = (): Promise<boolean> => outside.call('isAlive', connection, 5000);
      expect(await alive()).toBe(true);
      for (const [from, to] of [
        [0, 1],
        [1, 0],
      ] as const) {
        // The guest's end of its card stays with it, as in a live migration; its hypervisor announces it.
        await hosts[from]!.ip(`link set ${cardOf(0)} netns ${hosts[to]!.pid}`);
        await plug(0, to);
        await guests[0]!.on(['arping', '-q', '-U', '-c', '1', '-I', 'eth0', '-s', owners[0].guest, owners[0].guest]);
        expect(await alive()).toBe(true);
      }
      // Another worker finds the kernel as the first left it.
      await edges[0]!.call('startEdge', edgeAddresses[0]!, 'eth0', [openPort]);
      await apply([portOf(0, 20_000)]);
      expect(await alive()).toBe(true);
    });
  });
});

describe("an edge's public addresses", () => {
  const here = async (edge: number): Promise<string[]> =>
    publicAddresses.filter((address) => shown[edge]!.includes(` ${address}/`));
  let shown: string[] = [];
  const look = async (): Promise<void> => {
    shown = await Promise.all(edges.map((edge) => edge.on(['ip', '-4', '-o', 'address', 'show', 'dev', 'eth0'])));
  };

  it('are taken from it by its kernel where nothing extends them, and lead to the edge that has them', async () => {
    await Promise.all(edges.map((edge, index) => edge.call('applyOrders', ordersOf([portOf(0, 20_000)], index))));
    await edges[0]!.call('holdAddresses', publicAddresses);
    expect(await answering([{ protocol: 'tcp', address: publicAddresses[0]!, port: 20_000 }], 1)).toHaveLength(1);
    expect(await edges[1]!.call('areTaken', publicAddresses)).toBe(true);
    const since = Date.now();
    await expect
      .poll(
        async () => {
          await look();
          return here(0);
        },
        { timeout: 4000, interval: 50 },
      )
      .toEqual([]);
    expect(Date.now() - since).toBeLessThan(2600);
    expect(await edges[1]!.call('areTaken', publicAddresses)).toBe(false);
    // The outside knows the first edge's MAC, and sends there until the second has announced itself.
    expect(await answering([{ protocol: 'tcp', address: publicAddresses[0]!, port: 20_000 }], 0)).toEqual([]);
    await edges[1]!.call('holdAddresses', publicAddresses);
    await expect
      .poll(() => answering([{ protocol: 'tcp', address: publicAddresses[0]!, port: 20_000 }], 0), {
        timeout: 3000,
        interval: 50,
      })
      .toHaveLength(1);
    // One that was cut off comes back with the addresses, is heard, and gives them up.
    await edges[0]!.call('holdAddresses', publicAddresses);
    const [card] = JSON.parse(await edges[0]!.on(['ip', '-json', 'link', 'show', 'dev', 'eth0'])) as { address: string }[];
    await outside.ip(`neigh replace ${publicAddresses[0]} lladdr ${card!.address} nud reachable dev wire`);
    await edges[0]!.call('releaseAddresses', publicAddresses);
    const extending = setInterval(() => void edges[1]!.call('holdAddresses', publicAddresses), 500);
    try {
      await expect
        .poll(() => answering([{ protocol: 'tcp', address: publicAddresses[0]!, port: 20_000 }], 0), {
          timeout: 3500,
          interval: 50,
        })
        .toHaveLength(1);
    } finally {
      clearInterval(extending);
    }
    await edges[1]!.call('releaseAddresses', publicAddresses);
    await look();
    expect(await here(1)).toEqual([]);
  });
});

describe('what an edge leaves', () => {
  const chainsOf = (vni: string): string[] => ['', '-35s-pa8', '-FROM', '-OK', '-TO'].map((which) => `BERTH-EDGE-${vni}${which}`);
  it('is neither a segment nor a chain of an owner without ports', async () => {
    const left = async (): Promise<string[]> => {
      const links = await edges[0]!.on(['ip', '-o', 'link', 'show']);
      const rules = await edges[0]!.on(['iptables-save']);
      return [...links.matchAll(/ ((?:bg|vx)[0-9a-f]+)[:@]/g), ...rules.matchAll(/^:(BERTH-EDGE-[0-9a-f]+\S*) /gm)].map(
        (match) => match[1]!,
      );
    };
    await apply([portOf(0, 20_000), portOf(1, 20_001)]);
    expect((await left()).toSorted()).toEqual([...chainsOf('21'), ...chainsOf('22'), 'bg21', 'bg22', 'vx21', 'vx22']);
    await apply([portOf(1, 20_001)]);
    expect((await left()).toSorted()).toEqual([...chainsOf('22'), 'bg22', 'vx22']);
    await apply([]);
    expect(await left()).toEqual([]);
    expect(await edges[0]!.on(['conntrack', '-L', '--dst-nat'])).toBe('');
  });
});
