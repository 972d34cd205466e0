import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { DiskSource, DomainConfig } from '../../contracts/domain.ts';
import { run } from '../../drivers/host/run-process.ts';
import { domainXml } from '../../drivers/libvirt/domain-xml.ts';
import { nsenterArgv } from '../../infra/site/host/host.ts';
import { newId, uuidOf } from '../../model/ids.ts';
import type { TestSite } from '../../test/site/the-site.ts';
import { onHost } from '../../test/site/the-site.ts';
import type { Probe } from '../probe.ts';
import type { DomainDescription, GuestKind, Move } from './migrate-ours.ts';
import { addressAt, bridgePattern, imagePattern } from './migrate-ours.ts';

/** Numbers the bare VMs of a run, so that each has a unique name. */
let bares = 0;

export interface Bare {
  name: string;
  uuid: string;
  /** Index of its current host among the site's hosts. */
  at: number;
  address: string;
  folder: string;
}

export const agent = (test: TestSite, host: string, name: string, command: object): Promise<string> =>
  onHost(test, host, ['virsh', '-q', 'qemu-agent-command', name, JSON.stringify(command)]);

/** Makes a domain with the same description as one of ours, on disks of its own, which only libvirt knows. */
export async function makeBare(test: TestSite, vm: DomainDescription, kind: GuestKind): Promise<Bare> {
  const home = test.site.hosts.findIndex(({ id }) => id === vm.host);
  // The name is unique because NFS may cache the old folder of that name after it was removed and made anew.
  bares += 1;
  const name = `bare${kind.name}${bares}`;
  const folder = `/var/lib/berth/staging/${name}`;
  const bare: Bare = { name, at: home, address: addressAt(vm.network, 250).split('/')[0]!, folder, uuid: uuidOf(newId('vm')) };
  const image = imagePattern.exec(vm.xml)?.[1] ?? '';
  const make = `mkdir -p ${folder}; qemu-img create -q -f qcow2 -b ${image} -F qcow2 ${folder}/disk.qcow2; truncate -s 64M ${folder}/data.raw; mkfs.ext4 -q -F ${folder}/data.raw`;
  await onHost(test, vm.host, ['sh', '-ec', make]);
  for (const host of test.site.hosts.slice(0, 2)) {
    await onHost(test, host.id, ['mkdir', '-p', folder]);
    const away = host.id !== vm.host;
    const config = bareConfig(vm.xml, bare, kind, away ? test.site.hosts[home]!.address : null);
    await writeFile(join(test.home, 'hosts', host.id, 'staging', name, 'domain.xml'), domainXml(config));
  }
  await onHost(test, vm.host, ['virsh', '-q', 'create', `${folder}/domain.xml`]);
  for (const untilMs = Date.now() + 90_000; ; await delay(200)) {
    const answer = await agent(test, vm.host, name, { execute: 'guest-ping' }).catch((error: unknown) => String(error));
    if (answer.includes('return')) break;
    if (Date.now() > untilMs) throw new Error(`${name} does not boot: ${answer}`);
  }
  const network = addressAt(vm.network, 250);
  const records = `time ${Date.now() / 1000}\nhost ${name}\nmid ${'0'.repeat(31)}1\naddr eth0 ${network} ${vm.network.split('/')[0]}\nmount /dev/vdb /home/task\n`;
  const identity = { path: '/usr/local/sbin/berth-identity', 'input-data': Buffer.from(records).toString('base64') };
  await agent(test, vm.host, name, { execute: 'guest-exec', arguments: identity });
  await agent(test, vm.host, name, { execute: 'guest-exec', arguments: { path: '/bin/sh', arg: ['-c', kind.command] } });
  return bare;
}

/** The configuration of one of ours with another name, addresses and disks. */
export function bareConfig(xml: string, bare: Bare, kind: GuestKind, disksAt: string | null): DomainConfig {
  const { name, folder, uuid } = bare;
  const text = (pattern: RegExp): string => {
    const found = pattern.exec(xml)?.[1];
    if (found === undefined) throw new Error(`nothing in the domain's XML matches ${pattern}: ${xml}`);
    return found;
  };
  const at = (path: string): DiskSource => (disksAt === null ? { kind: 'file', path } : { kind: 'nfs', host: disksAt, path });
  const accelerator = text(/<domain type='([a-z]+)'/) === 'kvm' ? 'kvm' : 'qemu';
  const backing = { format: 'qcow2', source: { kind: 'file', path: text(imagePattern) } } as const;
  return {
    name,
    uuid,
    vcpus: 1,
    memory: { kind: 'own' },
    memoryMiB: kind.memoryMiB,
    accelerator,
    kernel: text(/<kernel>([^<]+)</),
    initrd: text(/<initrd>([^<]+)</),
    cmdline: text(/<cmdline>([^<]+)</),
    disks: [
      { target: 'vda', format: 'qcow2', source: at(`${folder}/disk.qcow2`), backing: [backing] },
      { target: 'vdb', format: 'raw', source: at(`${folder}/data.raw`), backing: [] },
    ],
    cdrom: null,
    nic: { mac: '52:54:00:fe:00:01', tap: `t${name}`, bridge: text(bridgePattern), mtu: 1450 },
    consoleLog: `${folder}/console.log`,
    consoleSocket: `${folder}/tty`,
    identitySocket: `${folder}/identity`,
    streamSocket: `${folder}/stream`,
    onReboot: 'destroy',
    panicDevice: true,
    unalignedMemory: accelerator === 'qemu',
  };
}

/** Runs the `virsh migrate` command of the manual until it ends. */
export async function moveBare(test: TestSite, bare: Bare, probe: Probe): Promise<Move> {
  const from = test.site.hosts[bare.at]!;
  const to = test.site.hosts[1 - bare.at]!;
  const flags = ['--live', '--p2p', '--unsafe', '--xml', `${bare.folder}/to.xml`];
  // The domain description for the other host, at a path that this host's virsh can read.
  const there = join(test.home, 'hosts', to.id, 'staging', bare.name, 'domain.xml');
  const here = join(test.home, 'hosts', from.id, 'staging', bare.name, 'to.xml');
  await run(['cp', there, here], { deadlineMs: 5000 });
  const argv = nsenterArgv(from.pid()!, [
    'virsh',
    '-q',
    'migrate',
    ...flags,
    bare.name,
    `qemu+tcp://${to.address}/system`,
    `tcp://${to.address}`,
  ]);
  let totalMs = 0;
  const { longestGapMs } = await probe.during(bare.address, async () => {
    const startedMs = performance.now();
    await run(argv, { deadlineMs: 120_000 });
    totalMs = performance.now() - startedMs;
  });
  bare.at = 1 - bare.at;
  return { totalMs, downtimeMs: longestGapMs, imageBytes: 0, phases: [] };
}

export async function endBare(test: TestSite, { name, at, folder }: Bare): Promise<void> {
  await onHost(test, test.site.hosts[at]!.id, ['virsh', '-q', 'destroy', name]);
  for (const { id } of test.site.hosts.slice(0, 2)) await onHost(test, id, ['rm', '-rf', folder]);
}
