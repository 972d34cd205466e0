import { randomInt } from 'node:crypto';
import ipaddr from 'ipaddr.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { run } from '../../../drivers/host/run-process.ts';
import { hostNameservers } from '../../../drivers/network/nameservers.ts';
import { archiveExceptions, debianArchives } from '../../../infra/site/archive-exceptions.ts';
import { until } from '../../../infra/site/until.ts';
import { deniedRanges } from '../../../model/network/reach-exception.ts';
import type { Probe } from '../../contract/real/machine.ts';
import type { PublishedAnswer } from '../published-load.ts';
import { onSharedSite } from '../shared-site.ts';
import { anotherClient, onEdge, type TestSite } from '../the-site.ts';
import { berthArgv, type Running, removeVm, start, startVm } from './berth.ts';
import { scanFromGuest, scanFromOutside, textOf } from './scans.ts';
import { answerEverywhere, machineAddresses } from './uplink.ts';

const protocols = ['tcp', 'udp'] as const;
/** In the guest, at all of its addresses: the first of each protocol is published. */
const listening = { tcp: [8080, 8081], udp: [8090, 8091] };
const guestPorts = [22, ...listening.tcp, ...listening.udp];

const servers = `use IO::Socket::INET; use IO::Select; $| = 1; my %tcp; my $all = IO::Select->new;
for (${listening.tcp.join(', ')}) { my $s = IO::Socket::INET->new(LocalPort => $_, Listen => 64, ReuseAddr => 1) or die $!; $tcp{$s} = 1; $all->add($s) }
for (${listening.udp.join(', ')}) { $all->add(IO::Socket::INET->new(LocalPort => $_, Proto => 'udp') or die $!) }
print "ready\\n";
while (1) { for my $s ($all->can_read) {
  if ($tcp{$s}) { my $c = $s->accept; close $c if $c } elsif (my $from = $s->recv(my $b, 100)) { $s->send('answer', 0, $from) } } }`;

let here: TestSite;
/** Of the client's owner, with published ports; and another owner's. */
let own: { id: string; address: string };
let neighbour: { id: string; address: string };
let serving: Running;
let published: Probe[];
let restoreUplink: () => Promise<void>;
onSharedSite((site) => {
  here = site;
});

const addressOf = async (id: string): Promise<string> =>
  (await here.operator.callWithRetry<{ address: string }>('GET', `/v1/vms/${id}`)).body.address;

beforeAll(async () => {
  restoreUplink = await answerEverywhere(here);
  const id = await startVm(here, 'scanned');
  own = { id, address: await addressOf(id) };
  const other = await startVm({ ...here, client: await anotherClient(here) }, 'neighbour');
  neighbour = { id: other, address: await addressOf(other) };
  const ready = Promise.withResolvers<void>();
  serving = start(here, berthArgv('exec', id, '--', 'perl', '-e', servers), () => ready.resolve());
  await ready.promise;
  for (const protocol of protocols) {
    const order = { port: listening[protocol][0]!, protocol };
    expect((await here.client.call('POST', `/v1/vms/${id}/ports`, order)).status).toBe(202);
  }
  const ports = async () =>
    (await here.client.callWithRetry<{ items: (PublishedAnswer & { protocol: 'tcp' | 'udp' })[] }>('GET', `/v1/vms/${id}/ports`))
      .body.items;
  await until('both ports are active', 30_000, async () => (await ports()).every(({ state }) => state === 'active'));
  published = (await ports()).map(({ protocol, publicAddress, publicPort }) => ({
    protocol,
    address: publicAddress,
    port: publicPort,
  }));
});
afterAll(async () => {
  await restoreUplink();
  serving.child.kill('SIGINT');
  await Promise.all([own, neighbour].map(({ id }) => removeVm({ ...here, client: here.operator }, id)));
});

const every = (addresses: readonly string[], ports: readonly number[]): Probe[] =>
  addresses.flatMap((address) => ports.flatMap((port) => protocols.map((protocol) => ({ protocol, address, port }))));

const toAddress = (number: number): string => [24, 16, 8, 0].map((shift) => Math.floor(number / 2 ** shift) % 256).join('.');

/** The first and the last address of a range, and some between. */
function sampled(range: string, between: number): string[] {
  const [base, prefix] = ipaddr.IPv4.parseCIDR(range);
  const first = base.toByteArray().reduce((sum, byte) => sum * 256 + byte, 0);
  const size = 2 ** (32 - prefix);
  const offsets = [0, size - 1, ...Array.from({ length: between }, () => randomInt(size))];
  return offsets.map((offset) => toAddress(first + offset));
}

const text = (probes: readonly Probe[]): string[] => probes.map(textOf).toSorted();

test('from outside it finds what is published, and nothing else', async () => {
  const { publicAddress, edge } = { publicAddress: published[0]!.address, edge: here.site.edges[0]!.address };
  const allPorts = Array.from({ length: 65_535 }, (_, index) => index + 1);
  const tcp = allPorts.map((port): Probe => ({ protocol: 'tcp', address: publicAddress, port }));
  expect(await scanFromOutside(tcp)).toEqual(text(published.filter(({ protocol }) => protocol === 'tcp')));
  const near = published.flatMap(({ port }) => [port - 1, port, port + 1]);
  const some = new Set([...near, 53, 67, 123, 161, 4789, ...Array.from({ length: 1500 }, () => randomInt(1, 65_536))]);
  const udp = [...some].map((port): Probe => ({ protocol: 'udp', address: publicAddress, port }));
  expect(await scanFromOutside(udp)).toEqual(text(published.filter(({ protocol }) => protocol === 'udp')));
  // The edge itself, and past it and past a host to the guest, as a wrong router would send it.
  expect(
    await scanFromOutside(every([edge], [...guestPorts, 53, 111, 4789, 9464, ...published.map(({ port }) => port)])),
  ).toEqual([]);
  for (const router of [edge, ...here.site.hosts.map(({ address }) => address)]) {
    await run(['ip', 'route', 'add', `${own.address}/32`, 'via', router], { deadlineMs: 5000 });
    try {
      expect(await scanFromOutside(every([own.address], guestPorts))).toEqual([]);
    } finally {
      await run(['ip', 'route', 'delete', `${own.address}/32`, 'via', router], { deadlineMs: 5000 });
    }
  }
  console.log(`from outside: ${tcp.length} TCP and ${udp.length} UDP ports of ${publicAddress}: ${text(published).join(', ')}`);
});

/** The address of the edge in the segment of the scanned guest. */
async function edgeInSegment(): Promise<string> {
  const shown = await onEdge(here, 'edge1', ['ip', '-4', '-o', 'address', 'show']);
  return / bg[0-9a-f]+ +inet ([\d.]+)\//.exec(shown)![1]!;
}

test("from a neighbour's guest, as root, it finds nothing of another owner", async () => {
  const targets = [own.address, await edgeInSegment(), published[0]!.address, here.site.edges[0]!.address];
  const probes = every(targets, [...guestPorts, ...published.map(({ port }) => port)]);
  const asRoot = (script: string) =>
    start(here, berthArgv('--key-file', here.site.ready.operatorKeyFile, 'exec', neighbour.id, '--', 'sh', '-ec', script)).ended;
  expect(await scanFromGuest(here, neighbour.id, probes)).toEqual([]);
  // As a neighbour in the same segment would: with an address of it, and on the wire.
  const alias = own.address.replace(/\d+$/, (last) => String((Number(last) + 60) % 250));
  expect(await asRoot(`ip address add ${alias}/22 dev eth0`)).toMatchObject({ code: 0 });
  expect(await scanFromGuest(here, neighbour.id, probes)).toEqual([]);
  expect(await asRoot(`ip address delete ${alias}/22 dev eth0; ip route add ${own.address}/32 dev eth0`)).toMatchObject({
    code: 0,
  });
  expect(await scanFromGuest(here, neighbour.id, probes)).toEqual([]);
  // That the guest there answers is seen from outside; and that these probes would be seen, from itself.
  expect(await scanFromOutside(published)).toEqual(text(published));
  const open = [22, ...listening.tcp].map((port): Probe => ({ protocol: 'tcp', address: own.address, port }));
  expect(await scanFromGuest(here, own.id, open)).toEqual(text(open));
  console.log(`from a neighbour: three times ${probes.length} ports, of ${targets.join(', ')}: none`);
});

const inside = (address: string, range: string): boolean => ipaddr.IPv4.parse(address).match(ipaddr.IPv4.parseCIDR(range));

test('from a guest, as root, it finds public addresses and the DNS ports of the resolvers', async () => {
  const resolvers = await hostNameservers();
  const archives = await archiveExceptions(await debianArchives());
  const { gateway, others } = await machineAddresses(here);
  const { site } = here;
  const portOf = (url: string): number => Number(new URL(url).port);
  const services = [
    portOf(site.ready.api),
    portOf(site.ready.temporalUi),
    portOf(site.operatorsUrl),
    portOf(site.databaseUrl),
    Number(site.temporalAddress.split(':')[1]),
  ];
  const machines = [...site.hosts, ...site.edges].map(({ address }) => address);
  const probes = [
    ...every([gateway, ...others, ...machines], [...services, 22, 53, 111, 2049, 4789, 9464, 16_509, 49_152]),
    ...every(
      deniedRanges.flatMap((range) => sampled(range, 14)),
      [22, 53, 80, 443, 7233],
    ),
    ...every([...resolvers, '169.254.169.254', published[0]!.address], [53, 80, 443, 853, published[0]!.port]),
    ...every(['10.128.0.1', '10.255.255.254', neighbour.address], [22, 53, 8080]),
    // Public ones, so that it is seen that what leaves is answered.
    ...every(['203.0.113.80', '9.255.255.255', '11.0.0.0', '100.128.0.1', '172.32.0.1'], [22, 53, 443, 7233]),
  ];
  const unique = [...new Map(probes.map((probe) => [textOf(probe), probe])).values()];
  const allowed = ({ protocol, address, port }: Probe): boolean => {
    if (port === 53 && resolvers.includes(address)) return true;
    if ([gateway, ...others, ...machines].includes(address)) return false;
    if (archives.includes(`${address}:${port}/${protocol}`)) return true;
    return !deniedRanges.some((range) => inside(address, range));
  };
  const expected = unique.filter(allowed);
  expect(await scanFromGuest(here, own.id, unique)).toEqual(text(expected));
  const ofPrivate = expected.filter(({ address }) => deniedRanges.some((range) => inside(address, range)));
  console.log(
    `from a guest: ${unique.length} ports of ${new Set(unique.map(({ address }) => address)).size} addresses; of private ones answered ${text(ofPrivate).join(', ')}`,
  );
  expect(ofPrivate.every(({ port }) => port === 53) || archives.length > 0).toBe(true);
});
