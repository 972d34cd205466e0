import { randomBytes, randomUUID } from 'node:crypto';
import { copyFile, mkdir, open, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { DomainConfig } from '../contracts/domain.ts';
import { openDiskTool } from '../drivers/disk/disk-tool.ts';
import { openGuestAgent } from '../drivers/guest/guest-agent.ts';
import { sendIdentity } from '../drivers/guest/identity-port.ts';
import { identityRecords } from '../drivers/guest/identity-records.ts';
import { domainXml } from '../drivers/libvirt/domain-xml.ts';
import { parseSaveHeader, writeSaveHeader } from '../drivers/libvirt/save-file.ts';
import { openVirsh } from '../drivers/libvirt/virsh.ts';
import type { GuestIdentity } from '../drivers/ports/guest.ts';

/**
 * The bare commands of one VM's creation, without orchestration: the baseline of `create`. Runs inside a host until its
 * input closes and answers each input line, one of the following, with `{"total": ms, "steps": {…}}`.
 *
 *   plain: overlay, rewritten state over the RAM file, restore through a persistent virsh, identity in one call to the agent
 *   best: the same with every known optimization: libvirt asks two questions about the processor (docs/decisions/0085),
 *     and the identity goes to the process that waits for it (docs/decisions/0086)
 *   cold: overlay, create, the agent's first answer, identity
 */
const root = '/var/lib/berth';
const [image, key, address = '', gateway = ''] = process.argv.slice(2);
if (image === undefined || key === undefined) throw new Error('Usage: bare-vm.ts IMAGE TEMPLATE ADDRESS/PLEN GATEWAY');
const folder = join(root, 'images', image);
const template = join(folder, 'templates', key);
const virsh = openVirsh('qemu:///system', 1);
const agent = openGuestAgent(virsh);
const disks = openDiskTool();
const saved = await readFile(join(template, 'state'));
const header = parseSaveHeader(saved);
const cmdline = /<cmdline>([^<]*)<\/cmdline>/.exec(header.xml)?.[1];
if (cmdline === undefined) throw new Error('no command line in the template');

async function virshDo(...command: [string, ...string[]]): Promise<void> {
  const answer = await virsh.call(command, 60_000);
  if (!answer.ok) throw new Error(`${command.join(' ')}: ${answer.error}`);
}

function configOf(work: string, name: string, kind: string): DomainConfig {
  const [vcpus, memoryMiB] = (/^(\d+)x(\d+)-/.exec(key!)?.slice(1) ?? []).map(Number) as [number, number];
  const at = (path: string) => ({ kind: 'file', path }) as const;
  return {
    name,
    uuid: randomUUID(),
    vcpus,
    memoryMiB,
    memory:
      kind === 'cold' ? { kind: 'own' } : { kind: 'copy', file: join(template, 'memory'), qmpScript: join(template, 'prelude') },
    accelerator: header.xml.startsWith("<domain type='kvm'") ? 'kvm' : 'qemu',
    kernel: join(folder, 'kernel'),
    initrd: join(folder, 'initrd'),
    cmdline: cmdline!,
    disks: [
      {
        target: 'vda',
        format: 'qcow2',
        source: at(join(work, 'disk.qcow2')),
        backing: [{ format: 'qcow2', source: at(join(folder, 'disk.qcow2')) }],
      },
      { target: 'vdb', format: 'raw', source: at(join(work, 'data.raw')), backing: [] },
    ],
    cdrom: null,
    nic: { mac: `52:54:00:fe:${randomBytes(2).toString('hex').replace(/^(..)/, '$1:')}`, tap: name, bridge: null, mtu: 1450 },
    consoleLog: join(work, 'console.log'),
    consoleSocket: join(work, 'tty'),
    identitySocket: join(work, 'identity'),
    streamSocket: join(work, 'stream'),
    onReboot: 'destroy',
    panicDevice: true,
    unalignedMemory: true,
  };
}

/** `plain` omits the capabilities from the domain XML, so that libvirt queries QEMU for everything that it can. */
const xmlOf = (config: DomainConfig, kind: string): string =>
  kind === 'plain' ? domainXml(config).replace(/<qemu:capabilities>.*<\/qemu:capabilities>/, '') : domainXml(config);

async function create(kind: string): Promise<{ total: number; steps: Record<string, number> }> {
  const name = `bare${randomBytes(3).toString('hex')}`;
  const work = join(root, 'staging', name);
  await mkdir(work);
  const config = configOf(work, name, kind);
  const began = performance.now();
  const steps: Record<string, number> = {};
  let last = began;
  const lap = (step: string): void => {
    steps[step] = performance.now() - last;
    last = performance.now();
  };
  await writeFile(join(work, 'data.raw'), '');
  await truncate(join(work, 'data.raw'), 512 * 2 ** 20);
  if (kind === 'cold') await disks.createOverlay(join(work, 'disk.qcow2'), join(folder, 'disk.qcow2'), 2048);
  else await copyFile(join(template, 'disk.qcow2'), join(work, 'disk.qcow2'));
  lap('overlay');
  if (kind === 'cold') {
    await writeFile(join(work, 'domain.xml'), domainXml(config));
    await virshDo('create', join(work, 'domain.xml'));
    lap('create');
  } else {
    const file = await open(join(work, 'state'), 'wx');
    await file.writev([writeSaveHeader(header, xmlOf(config, kind)), saved.subarray(header.streamOffset)]);
    await file.close();
    lap('state');
    await virshDo('restore', join(work, 'state'));
    lap('restore');
  }
  const [own, bits] = address.split('/');
  const identity: GuestIdentity = {
    firstBootKind: kind === 'cold' ? 'cold' : 'warm',
    mac: config.nic.mac,
    hostname: name,
    machineId: config.uuid.replaceAll('-', ''),
    address: own ?? '',
    cidr: `${own}/${bits}`,
    gateway,
    neighbours: [],
    timeMs: Date.now(),
  };
  const records = identityRecords(identity, []);
  if (kind === 'cold') {
    while (!(await agent.ping(name))) await new Promise((resolve) => setTimeout(resolve, 10));
    lap('agent');
  }
  if (kind === 'best') await sendIdentity(config.identitySocket, records, Buffer.alloc(0), 60_000);
  else {
    const { exitCode, stderr } = await agent.exec(name, ['/usr/local/sbin/berth-identity'], {
      deadlineMs: 60_000,
      input: records,
    });
    if (exitCode !== 0) throw new Error(`berth-identity: exit ${exitCode}: ${stderr}`);
  }
  lap('identity');
  const total = last - began;
  await virshDo('destroy', name);
  await rm(work, { recursive: true });
  return { total, steps };
}

await readdir(template);
for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(await create(line.trim())));
virsh.close();
