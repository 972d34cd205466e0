import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { DiskSource, DomainConfig } from '../contracts/domain.ts';
import { run } from '../drivers/host/run-process.ts';
import { domainXml } from '../drivers/libvirt/domain-xml.ts';
import { nsenterArgv } from '../infra/site/host.ts';
import { type Ledger, openLedger } from '../ledger/client.ts';
import { newId, uuidOf } from '../model/ids.ts';
import { setSchedulable } from '../test/site/drains.ts';
import { type MigrationAnswer, move, moveOver } from '../test/site/moves.ts';
import { answersAgent, lastWords } from '../test/site/subjects.ts';
import { onHost, openSite, type TestSite } from '../test/site/the-site.ts';
import { logProgress, median, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';
import { openProbe, PingTimeout, type Probe } from './probe.ts';
import { quiesce } from './quiesce.ts';

/** Writes 8 MiB of its memory anew ten times a second or so, as fast as emulation lets it. */
const dirtying = 'while :; do dd if=/dev/urandom of=/dev/shm/dirty bs=1M count=8 conv=notrunc 2>/dev/null; sleep 0.2; done';
const kinds: GuestKind[] = [
  { name: '128', memoryMiB: 128, command: 'sleep 3600' },
  { name: '256', memoryMiB: 256, command: 'sleep 3600' },
  { name: '512', memoryMiB: 512, command: 'sleep 3600' },
  { name: 'dirty256', memoryMiB: 256, command: dirtying },
];

/** A guest goes on starting behind its agent's first answer, and is to be idle. */
const idleAfterMs = 20_000;
/** Nothing is over sooner. */
const firstPollMs = 300;
const pollMs = 10;
const deadlineMs = 240_000;

interface GuestKind {
  name: string;
  memoryMiB: number;
  command: string;
}

interface Move {
  totalMs: number;
  downtimeMs: number;
  imageBytes: number;
  phases: MigrationAnswer['phases'];
}

/**
 * `migrate.total.<MiB>`, `migrate.downtime.<MiB>`, `migrate.imageBytes`: a VM that moves between two hosts and back,
 * against bare `virsh migrate` of a VM made of the same description, in turn. The total is from the request to the
 * answer that it is over; the downtime is the longest gap in a 10 ms ping from the third host. `--modes` picks some of
 * 128, 256, 512 and dirty256.
 */
export async function benchMigrate({ runs, modes }: BenchOptions): Promise<void> {
  const count = Math.max(runs ?? 7, 3);
  const unknown = (modes ?? []).filter((name) => kinds.every((kind) => kind.name !== name));
  if (unknown.length > 0) throw new Error(`--modes: there is no ${unknown.join(', ')}`);
  const wanted = kinds.filter(({ name }) => modes?.includes(name) ?? true);
  // Room for two VMs at each host beside one that is made a template of meanwhile.
  const test = await openSite(3, { BERTH_VCPU_RATIO: '8' });
  try {
    // The image and the owner's network are at every host.
    const holder = await test.client.submit({
      image: 'debian-12',
      command: ['sleep', '3600'],
      nodes: 3,
      resources: { vcpus: 1, memoryMiB: 128, diskMiB: 64 },
      timeoutS: 3600,
      lease: { kind: 'bestEffort', durationS: 7200 },
    });
    await test.client.until(holder.id, ['running']);
    const imageBytes: number[] = [];
    for (const kind of wanted) imageBytes.push(...(await measure(test, kind, count)));
    printFigure('migrate.imageBytes', Math.max(...imageBytes), 'bytes', null, { migrations: imageBytes.length });
  } finally {
    await test.stop();
  }
}

/** One of the two that move in turn. */
interface Side {
  name: 'ours' | 'bare';
  move(): Promise<Move>;
  locate(): Promise<{ host: string; name: string; console: string }>;
  /** Another guest in its place. */
  replaceGuest(): Promise<void>;
}

/** Of one kind, of both sides together. Now and then a guest dies behind a move under emulation, whoever moves it (docs/migration.md). */
const maxDeaths = 5;

/** Prints the lines of one kind of guest. @returns what each of our moves brought of images */
async function measure(test: TestSite, kind: GuestKind, count: number): Promise<number[]> {
  const hosts = test.site.hosts.map(({ id }) => id);
  await setSchedulable(test, hosts, true);
  let vm = await makeOurs(test, kind);
  let bare = await makeBare(test, vm, kind);
  const probe = await openProbe(test, test.site.hosts[2]!.id, vm.bridge, addressAt(vm.network, 251));
  const ledger = openLedger(test.site.databaseUrl, 1);
  const sides: Side[] = [
    {
      name: 'ours',
      move: () => moveOurs(test, ledger, vm, probe),
      locate: () => whereOurs(test, vm),
      async replaceGuest() {
        await endOurs(test, vm);
        vm = await makeOurs(test, kind);
      },
    },
    {
      name: 'bare',
      move: () => moveBare(test, bare, probe),
      locate: async () => whereBare(test, bare),
      async replaceGuest() {
        await endBare(test, bare);
        bare = await makeBare(test, vm, kind);
      },
    },
  ];
  await setSchedulable(test, hosts, false);
  await quiesce(test, expectedDomains);
  await delay(idleAfterMs);
  const rounds: { ours: Move; bare: Move }[] = [];
  const died = { ours: 0, bare: 0 };
  for (let round = -1; round < count; ) {
    const pair = await moveBoth(test, sides, died);
    if (pair === null) {
      if (died.ours + died.bare > maxDeaths) throw new Error(`too many guests died to measure anything: ${JSON.stringify(died)}`);
      continue;
    }
    const parts = pair.ours.phases.map(({ name, seconds }) => `${name} ${Math.round((seconds ?? 0) * 1000)}`).join(', ');
    const told = ({ totalMs, downtimeMs }: Move) => `${Math.round(totalMs)} ms, gap ${Math.round(downtimeMs)} ms`;
    logProgress(
      `${kind.name} run ${round + 1}: Berth ${told(pair.ours)}; bare ${told(pair.bare)}${round < 0 ? ' (warm-up)' : ''}; ${parts}`,
    );
    if (round >= 0) rounds.push(pair);
    round += 1;
  }
  const of = (side: 'ours' | 'bare', what: 'totalMs' | 'downtimeMs') => median(rounds.map((pair) => pair[side][what]));
  const detail = { runs: count, died };
  printFigure(`migrate.total.${kind.name}`, of('ours', 'totalMs') / 1000, 's', of('bare', 'totalMs') / 1000, detail);
  printFigure(`migrate.downtime.${kind.name}`, of('ours', 'downtimeMs'), 'ms', of('bare', 'downtimeMs'), detail);
  await probe.close();
  await ledger.$disconnect();
  await endBare(test, bare);
  await endOurs(test, vm);
  return rounds.map(({ ours }) => ours.imageBytes);
}

/** The VMs that hold the image, and the two that move. */
const expectedDomains = 3 + 2;

/** In turn, the other's guest stepping aside; null where one's guest died, which is counted, and has a new one in its place. */
async function moveBoth(
  test: TestSite,
  sides: readonly Side[],
  died: Record<Side['name'], number>,
): Promise<{ ours: Move; bare: Move } | null> {
  const moved: Partial<Record<Side['name'], Move>> = {};
  for (const side of sides)
    try {
      for (const one of sides) await setNice(test, one, one === side ? 0 : 19);
      moved[side.name] = await side.move();
    } catch (error) {
      if (!(error instanceof PingTimeout) || !(await hasDied(test, side))) throw error;
      died[side.name] += 1;
      await side.replaceGuest();
      return null;
    }
  return { ours: moved.ours!, bare: moved.bare! };
}

/** All threads of a side's QEMU: on two processors a guest that works takes one of them from the other that is measured. */
async function setNice(test: TestSite, side: Side, nice: number): Promise<void> {
  const { host, name } = await side.locate();
  const script = `for thread in /proc/$(cat /run/libvirt/qemu/${name}.pid)/task/*; do renice -n ${nice} -p "\${thread##*/}" || test ! -e "$thread"; done`;
  await onHost(test, host, ['sh', '-ec', script]);
}

/** Its hypervisor says that it runs, and neither its network nor its agent says anything. */
async function hasDied(test: TestSite, side: Side): Promise<boolean> {
  const { host, name, console } = await side.locate();
  const state = (await onHost(test, host, ['virsh', '-q', 'domstate', name])).trim();
  if (state !== 'running' || (await answersAgent(test, host, name))) return false;
  logProgress(
    `${name} (${side.name}) has died at ${host}, and a new guest takes its place; its last words: ${await lastWords(test, host, console)}`,
  );
  return true;
}

async function whereOurs(test: TestSite, { id }: DomainDescription) {
  const { host } = (await test.client.insist<{ host: string }>('GET', `/v1/vms/${id}`)).body;
  return { host, name: id, console: `/var/lib/berth/vms/${id}/console.log` };
}

const whereBare = (test: TestSite, { at, name, folder }: Bare) => ({
  host: test.site.hosts[at]!.id,
  name,
  console: `${folder}/console.log`,
});

async function makeOurs(test: TestSite, kind: GuestKind): Promise<DomainDescription & { task: string }> {
  const { id: task } = await test.client.submit({
    image: 'debian-12',
    command: ['sh', '-c', kind.command],
    resources: { vcpus: 1, memoryMiB: kind.memoryMiB, diskMiB: 64 },
    timeoutS: 3600,
    lease: { kind: 'bestEffort', durationS: 7200 },
  });
  const { vms } = await test.client.until(task, ['running']);
  return { ...(await moveToTestHosts(test, vms[0]!)), task };
}

async function endOurs(test: TestSite, { task }: { task: string }): Promise<void> {
  await test.client.insist('DELETE', `/v1/tasks/${task}`);
  await test.client.over(task);
}

/** The VM at home on one of the first two hosts, between which everything moves. */
async function moveToTestHosts(test: TestSite, id: string): Promise<DomainDescription> {
  const vm = await describe(test, id);
  if (vm.host !== test.site.hosts[2]!.id) return vm;
  const over = await moveOver(test, (await move(test, id, { to: test.site.hosts[0]!.id, moveDisk: true })).id);
  if (over.state !== 'succeeded' || over.error !== null) throw new Error(`it stays where it is: ${JSON.stringify(over.error)}`);
  return describe(test, id);
}

interface DomainDescription {
  id: string;
  host: string;
  home: string;
  address: string;
  xml: string;
  bridge: string;
  /** Gateway with the network's length. */
  network: string;
}

async function describe(test: TestSite, id: string): Promise<DomainDescription> {
  const { host, home, address } = (
    await test.client.insist<{ host: string; home: string; address: string }>('GET', `/v1/vms/${id}`)
  ).body;
  const xml = await onHost(test, host, ['virsh', '-q', 'dumpxml', id, '--migratable']);
  const bridge = bridgePattern.exec(xml)?.[1];
  if (bridge === undefined) throw new Error(`no bridge in the domain's XML: ${xml}`);
  const network = /inet ([0-9./]+)/.exec(await onHost(test, host, ['ip', '-4', '-o', 'addr', 'show', 'dev', bridge]))?.[1];
  if (network === undefined) throw new Error(`bridge ${bridge} has no address`);
  return { id, host, home, address: address.split('/')[0]!, xml, bridge, network };
}

const bridgePattern = /<source bridge='([^']+)'/;
const imagePattern = /<backingStore[^>]*>\s*<format[^>]*\/>\s*<source file='([^']+)'/;

/** An address of the owner's network far from where the ledger gives them. */
const addressAt = (network: string, last: number): string => network.replace(/\.\d+\//, `.${last}/`);

/** From one of the first two hosts to the other. */
async function moveOurs(test: TestSite, ledger: Ledger, vm: DomainDescription, probe: Probe): Promise<Move> {
  const { host } = (await test.client.insist<{ host: string }>('GET', `/v1/vms/${vm.id}`)).body;
  const to = test.site.hosts.slice(0, 2).find(({ id }) => id !== host)!.id;
  // At home its guest writes to its disks while it comes.
  const files = to === vm.home ? null : vm.id;
  const before = await diskBytes(test, to, files);
  let totalMs = 0;
  let phases: MigrationAnswer['phases'] = [];
  const { longestGapMs } = await probe.during(vm.address, async () => {
    const startedMs = performance.now();
    const { id } = await move(test, vm.id, { to });
    await untilOver(ledger, id);
    const over = await moveOver(test, id);
    totalMs = performance.now() - startedMs;
    phases = over.phases;
    if (over.state !== 'succeeded') throw new Error(`the migration is ${over.state}: ${JSON.stringify(over.error)}`);
  });
  const imageBytes = Math.max(0, (await diskBytes(test, to, files)) - before);
  return { totalMs, downtimeMs: longestGapMs, imageBytes, phases };
}

/** By the ledger's own word: a request to the API every 10 ms would take much of what is measured on two processors. */
async function untilOver(ledger: Ledger, id: string): Promise<void> {
  await delay(firstPollMs);
  for (const untilMs = Date.now() + deadlineMs; ; await delay(pollMs)) {
    const { finishedAt } = await ledger.migration.findUniqueOrThrow({ where: { id }, select: { finishedAt: true } });
    if (finishedAt !== null) return;
    if (Date.now() > untilMs) throw new Error(`${id} is not over after ${deadlineMs / 1000} s`);
  }
}

/** What a host has of images, and of a VM's disks, on its own disk. A template is made there, and not moved by anybody. */
async function diskBytes(test: TestSite, host: string, vm: string | null): Promise<number> {
  const disks = vm === null ? '' : `/var/lib/berth/vms/${vm}/*.qcow2 /var/lib/berth/vms/${vm}/*.raw`;
  const script = `du -sB1 --exclude=templates /var/lib/berth/images ${disks} 2>/dev/null | awk '{sum += $1} END {print sum + 0}'`;
  return Number((await onHost(test, host, ['sh', '-c', script])).trim());
}

interface Bare {
  name: string;
  uuid: string;
  /** Index among the site's hosts of where it is. */
  at: number;
  address: string;
  folder: string;
}

const agent = (test: TestSite, host: string, name: string, command: object): Promise<string> =>
  onHost(test, host, ['virsh', '-q', 'qemu-agent-command', name, JSON.stringify(command)]);

let bares = 0;

/** A domain of the same description as one of ours, on disks of its own, which nobody but libvirt knows. */
async function makeBare(test: TestSite, vm: DomainDescription, kind: GuestKind): Promise<Bare> {
  const home = test.site.hosts.findIndex(({ id }) => id === vm.host);
  // A name of its own: of a folder that was removed and made anew NFS may still know the old one.
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

/** As one of ours, but for its name, its addresses and its disks. */
function bareConfig(xml: string, bare: Bare, kind: GuestKind, disksAt: string | null): DomainConfig {
  const { name, folder, uuid } = bare;
  const text = (pattern: RegExp): string => {
    const found = pattern.exec(xml)?.[1];
    if (found === undefined) throw new Error(`nothing in the domain's XML matches ${pattern}: ${xml}`);
    return found;
  };
  const at = (path: string): DiskSource => (disksAt === null ? { kind: 'file', path } : { kind: 'nfs', host: disksAt, path });
  const backing = { format: 'qcow2', source: { kind: 'file', path: text(imagePattern) } } as const;
  return {
    name,
    uuid,
    vcpus: 1,
    memory: { kind: 'own' },
    memoryMiB: kind.memoryMiB,
    accelerator: text(/<domain type='([a-z]+)'/) === 'kvm' ? 'kvm' : 'qemu',
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
    identitySocket: `${folder}/identity`,
    onReboot: 'destroy',
  };
}

/** The command of the manual, to its end. */
async function moveBare(test: TestSite, bare: Bare, probe: Probe): Promise<Move> {
  const from = test.site.hosts[bare.at]!;
  const to = test.site.hosts[1 - bare.at]!;
  const flags = ['--live', '--p2p', '--unsafe', '--xml', `${bare.folder}/to.xml`];
  // The description of the other host, where this one's virsh can read it.
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

async function endBare(test: TestSite, { name, at, folder }: Bare): Promise<void> {
  await onHost(test, test.site.hosts[at]!.id, ['virsh', '-q', 'destroy', name]);
  for (const { id } of test.site.hosts.slice(0, 2)) await onHost(test, id, ['rm', '-rf', folder]);
}
