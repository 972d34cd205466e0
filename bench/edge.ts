import { type Machine, startMachine } from '../test/contract/real/machines.ts';
import { logProgress, median, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';

/**
 * What an edge costs a stream: one connection from a client through DNAT, SNAT, the rules and a VXLAN to a machine behind a host,
 * against one from the same client to a machine beside it, over the same wire. All of them are network namespaces; there is no
 * guest.
 */
const bytes = 2 ** 30;
const port = 7001;
const [publicAddress, publicPort] = ['10.77.0.230', 20_000];
const at = { client: '10.77.0.3', host: '10.77.0.11', edge: '10.77.0.221', beside: '10.77.0.4' };
const segment = { vni: 0x21, cidr: '10.128.16.0/22', address: '10.128.19.254' };
const guestAddress = '10.128.16.10';

/** The edge has as many as an owner may have: each packet is compared with those before its own. */
const otherPorts = 63;

async function plug(wire: Machine, machine: Machine, name: keyof typeof at): Promise<void> {
  await machine.ip(`link add eth0 mtu 1600 type veth peer name ${name} mtu 1600 netns ${wire.pid}`);
  await wire.ip(`link set ${name} master wire up`);
  await machine.ip(`address add ${at[name]}/24 dev eth0`, 'link set eth0 up');
}

async function makeNetwork([wire, client, host, edge, beside, guest]: Machine[]): Promise<void> {
  await wire!.call('set', 'net/bridge/bridge-nf-call-iptables', '0');
  await wire!.ip('link add wire mtu 1600 type bridge forward_delay 0', 'link set wire up');
  for (const [machine, name] of [
    [client, 'client'],
    [host, 'host'],
    [edge, 'edge'],
    [beside, 'beside'],
  ] as const)
    await plug(wire!, machine!, name);
  const reach = { hostsCidr: '10.77.0.0/24', guestSupernet: '10.128.0.0/9' };
  await host!.call('startWorker', { ...reach, nameservers: [], siteHosts: [], siteCidrs: [], exceptions: [] });
  const { vni, cidr } = segment;
  await host!.call('ensureNetwork', at.host, { vni, cidr, gateway: '10.128.16.1', peers: [at.edge] });
  await host!.ip(`link add bt0 mtu 1450 type veth peer name eth0 mtu 1450 netns ${guest!.pid}`, 'link set bt0 master bg21 up');
  await guest!.ip('link set eth0 up', `address add ${guestAddress}/22 dev eth0`, 'route add default via 10.128.16.1');
  await edge!.call('startEdge', at.edge, 'eth0', []);
  const order = { vni, protocol: 'tcp' as const, publicAddress, address: guestAddress, port, allow: [], digest: '' };
  const others = Array.from({ length: otherPorts }, (_, index) => ({
    ...order,
    id: `a${index}`,
    publicPort: 20_001 + index,
    port: 8000 + index,
  }));
  await edge!.call('applyOrders', {
    publicAddresses: [publicAddress],
    peers: [at.host],
    segments: [segment],
    ports: [...others, { ...order, id: 'b', publicPort }],
  });
  await beside!.call('sink', port);
  await guest!.call('sink', port);
}

export async function benchEdge({ runs }: BenchOptions): Promise<void> {
  const machines = await Promise.all(Array.from({ length: 6 }, () => startMachine()));
  const [, client, , edge] = machines;
  try {
    await makeNetwork(machines);
    const [bare, through]: number[][] = [[], []];
    const extending = setInterval(() => void edge!.call('holdAddresses', [publicAddress]), 500);
    try {
      await edge!.call('holdAddresses', [publicAddress]);
      // In turns, so that what else the machine does falls on both.
      for (let run = 0; run < (runs ?? 7); run += 1) {
        bare!.push(bytes / 1e6 / (await client!.call('pour', at.beside, port, bytes)));
        through!.push(bytes / 1e6 / (await client!.call('pour', publicAddress, publicPort, bytes)));
        logProgress(
          `run ${run + 1}: bare ${Math.round(bare!.at(-1)!)} MB/s, through the edge ${Math.round(through!.at(-1)!)} MB/s`,
        );
      }
    } finally {
      clearInterval(extending);
    }
    printFigure('edge.throughput', median(through!), 'MB/s', median(bare!), {
      runs: through!.length,
      bytes,
      ports: otherPorts + 1,
    });
  } finally {
    await Promise.all(machines.map((machine) => machine.end()));
  }
}
