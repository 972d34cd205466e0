import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { HostId } from '../../model/ids.ts';
import type { NetworkRef, VmSpec } from '../../model/vm.ts';
import { openRealHosts, type RealHost } from './real/bench.ts';
import { vmOf } from './requests.ts';

/** The addresses that guests reach: two guests of one owner on two hosts, and one of another owner. */
let hosts: RealHost[];
let stop: () => Promise<void>;
let vms: { vm: VmSpec; host: RealHost }[];

const mine = { vni: 0x11, cidr: '10.128.16.0/24', gateway: '10.128.16.1' };
const theirs = { vni: 0x12, cidr: '10.128.17.0/24', gateway: '10.128.17.1' };

function vmAt(index: number, network: NetworkRef, address: string, name: string): { vm: VmSpec; host: RealHost } {
  const host = hosts[index]!;
  const names = [
    { name: 'node0', address: '10.128.16.10' },
    { name: 'node1', address: '10.128.16.11' },
  ];
  const mac = address
    .split('.')
    .slice(2)
    .map((part) => Number(part).toString(16).padStart(2, '0'));
  const more = { name, host: host.host.id as HostId, diskMiB: 32, address, neighbours: names };
  return { host, vm: vmOf(host.image(), { ...more, network, mac: `52:54:00:11:${mac.join(':')}` }) };
}

beforeAll(async () => {
  const opened = await openRealHosts(2);
  stop = opened.stop;
  hosts = opened.hosts;
  vms = [
    vmAt(0, mine, '10.128.16.10', 'node0'),
    vmAt(1, mine, '10.128.16.11', 'node1'),
    vmAt(1, theirs, '10.128.17.10', 'node0'),
  ];
  await Promise.all(
    vms.map(async ({ vm, host }) => {
      const far = host.activities();
      await far.ensureImage(vm.image);
      await far.stageIn({ vm, inputs: [], limits: { outsideBytes: 1, outsideSeconds: 1, allowInternal: false } });
      await far.ensureRunning(vm);
    }),
  );
}, 300_000);
afterAll(() => stop?.());

/** Runs a shell line in the guest at this index as its one command, and returns what it printed. */
async function inGuest(index: number, script: string): Promise<string> {
  const { vm, host } = vms[index]!;
  const { ports } = host.far();
  await ports.guest.startJob(vm.id, { argv: ['bash', '-c', script], env: {}, timeoutS: 100, logLimitBytes: 10_000 });
  await expect.poll(() => ports.guest.observeJob(vm.id), { timeout: 110_000, interval: 100 }).not.toBeNull();
  return (await ports.guest.readLog(vm.id, 0, 10_000)).toString();
}

/** With bash's own sockets: a connection or a refusal proves an answer; a timeout proves none. */
const reach = (label: string, address: string, port: number): string =>
  `if out=$(timeout 3 bash -c 'exec 3<>/dev/tcp/${address}/${port}' 2>&1); then echo ${label}=open; else case "$out" in *refused*) echo ${label}=answered;; *) echo ${label}=silent;; esac; fi`;

describe("owners' networks over two hosts", () => {
  it('let guests of one owner reach each other by name, and no others', async () => {
    const [one, two] = hosts.map(({ host }) => host.address);
    const tests = [
      reach('peer', 'node1', 9),
      reach('other', '10.128.17.10', 9),
      reach('gateway', mine.gateway, 2049),
      reach('host', one!, 2049),
      reach('host_libvirt', one!, 16509),
      reach('otherhost', two!, 2049),
      reach('othergateway', theirs.gateway, 2049),
      reach('metadata', '169.254.169.254', 80),
      'ip -o link show eth0 | grep -o "mtu [0-9]*"',
    ];
    // At the same time: most of them wait for an answer that never comes.
    const script = [...tests.map((one) => `{ ${one}; } &`), 'wait'].join('\n');
    const said = (await inGuest(0, script)).trim().split('\n');
    expect(said.toSorted()).toEqual(
      [
        'peer=answered',
        'other=silent',
        'gateway=silent',
        'host=silent',
        'host_libvirt=silent',
        'otherhost=silent',
        'othergateway=silent',
        'metadata=silent',
        'mtu 1450',
      ].toSorted(),
    );
  });

  it('do not let a guest use the address of another', async () => {
    // With an address of the other owner on its own card: answers to forwarded packets would reach the other guest.
    const said = await inGuest(2, `ip address add 10.128.16.10/32 dev eth0; ${reach('spoofed', '10.128.16.11', 9)}`);
    expect(said.trim()).toBe('spoofed=silent');
  });

  it('are removed with their last guest', async () => {
    for (const { vm, host } of vms) {
      await host.activities().removeDomain(vm.id, 1);
      await host.activities().removeDisks(vm.id, 1);
    }
    for (const host of hosts)
      expect(await host.activities().observeInventory()).toMatchObject({ domains: [], taps: [], networks: [] });
  });
});
