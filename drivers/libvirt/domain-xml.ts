import type { DiskSource, DomainConfig, DomainDisk, GuestMemory } from '../../contracts/domain.ts';
import { identityPortName } from '../guest/identity-port.ts';
import { streamPortName } from '../guest/streams/guest-port.ts';

/** Escapes text for XML content and for attributes in either quotes. Refuses characters that XML 1.0 can't express. */
export function escapeXml(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: refusing them is the point
  if (/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/.test(text) || !text.isWellFormed())
    throw new Error(`BUG: ${JSON.stringify(text)} can't be written in XML`);
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&apos;')
    .replaceAll(/[\t\n\r]/g, (character) => `&#${character.charCodeAt(0)};`);
}

type Child = string | null;

/** One element, with attributes and children in the given order. Children are XML; text has to be escaped by escapeXml. */
function element(name: string, attributes: Record<string, string | number>, ...children: Child[]): string {
  const list = Object.entries(attributes).map(([key, value]) => ` ${key}="${escapeXml(String(value))}"`);
  const content = children.filter((child) => child !== null).join('');
  return content === '' ? `<${name}${list.join('')}/>` : `<${name}${list.join('')}>${content}</${name}>`;
}
const text = (name: string, value: string | number): string => element(name, {}, escapeXml(String(value)));

/**
 * libvirt's description of a transient domain (https://libvirt.org/formatdomain.html). The backing chain is spelled out,
 * so that libvirt neither probes images nor follows what a guest wrote into its own.
 */
export function domainXml(config: DomainConfig): string {
  const kvm = config.accelerator === 'kvm';
  return element(
    'domain',
    { type: kvm ? 'kvm' : 'qemu', 'xmlns:qemu': 'http://libvirt.org/schemas/domain/qemu/1.0' },
    text('name', config.name),
    text('uuid', config.uuid),
    element('memory', { unit: 'MiB' }, escapeXml(String(config.memoryMiB))),
    // What QEMU tells of it, which libvirt compares with the description of a restored guest.
    config.unalignedMemory ? element('currentMemory', { unit: 'KiB' }, String(memoryKiB(config))) : null,
    text('vcpu', config.vcpus),
    element('os', {}, element('type', { arch: 'x86_64', machine: 'pc' }, 'hvm'), ...bootFrom(config)),
    element('features', {}, element('acpi', {})),
    // Under TCG a basic model, the same on every host; under KVM the host's.
    kvm ? element('cpu', { mode: 'host-model' }) : element('cpu', { mode: 'custom' }, text('model', 'qemu64')),
    text('on_poweroff', 'destroy'),
    text('on_reboot', config.onReboot),
    text('on_crash', 'destroy'),
    element('devices', {}, ...devices(config)),
    element('qemu:commandline', {}, ...memoryArguments(config).map((value) => element('qemu:arg', { value }))),
    kvm ? null : noCpuFeatureQueries,
  );
}

/**
 * An emulated processor counts the host's cycles. A guest that boots beside busy neighbours sometimes measures their rate
 * wrongly, by a factor of five, and all its times with it; HPET's rate isn't measured (docs/decisions/0093).
 */
const emulatedClock = 'clocksource=hpet';

function bootFrom({ kernel, initrd, cmdline, accelerator }: DomainConfig): string[] {
  if (kernel === null || initrd === null) return [element('boot', { dev: 'hd' })];
  const kernelCmdline = accelerator === 'kvm' ? cmdline : `${cmdline} ${emulatedClock}`;
  return [text('kernel', kernel), text('initrd', initrd), text('cmdline', kernelCmdline)];
}

/**
 * Before a guest runs, libvirt queries each of some 460 properties of its processor, and QEMU reads the queries byte by byte:
 * 0.2 s of each start, restore and incoming migration. An emulated processor has its model's features on every host. Without
 * the capability to name missing features, libvirt needs two queries for the same (docs/decisions/0085).
 */
const noCpuFeatureQueries = element('qemu:capabilities', {}, element('qemu:del', { capability: 'cpu-unavailable-features' }));

/** QEMU rounds the size of a machine's memory to 8 KiB. */
const unalignedKiB = 8;

const memoryKiB = ({ memoryMiB, unalignedMemory }: Pick<DomainConfig, 'memoryMiB' | 'unalignedMemory'>): number =>
  memoryMiB * 1024 - (unalignedMemory ? unalignedKiB : 0);

/**
 * In saves and migrations QEMU names a guest's memory by the id of its memory object. libvirt has no element for a memory
 * file of our choice, so every domain gets its memory by an object of ours, with the same id: then a guest on a template's
 * memory can be migrated to a domain with anonymous memory (docs/decisions/0043). The object that libvirt makes besides is
 * never touched, and takes no memory.
 *
 * But it comes first in QEMU's addresses of memory, and when QEMU 10 scans a whole memory for written pages, it makes the emulated
 * processors report further writes to the first memory, whichever it scans. Sizes that are no multiple of 256 KiB are scanned
 * page by page, without that mistake (docs/decisions/0112).
 */
export function memoryArguments({
  memory,
  memoryMiB,
  unalignedMemory,
}: Pick<DomainConfig, 'memory' | 'memoryMiB' | 'unalignedMemory'>): string[] {
  const sizeKiB = memoryKiB({ memoryMiB, unalignedMemory });
  const object = { ...memoryBackend(memory), id: 'berth.ram', size: sizeKiB * 1024 };
  const args = ['-object', JSON.stringify(object), '-machine', 'memory-backend=berth.ram'];
  if (unalignedMemory) args.push('-m', `size=${sizeKiB}k`);
  if (memory.kind !== 'copy') return args;
  // A monitor that reads from a file: its commands are executed before libvirt's own.
  const chardev = `file,id=berth.prelude,path=/dev/null,input-path=${memory.qmpScript.replaceAll(',', ',,')}`;
  return [...args, '-chardev', chardev, '-mon', 'chardev=berth.prelude,mode=control'];
}

function memoryBackend(memory: GuestMemory): Record<string, string | boolean> {
  if (memory.kind === 'own') return { 'qom-type': 'memory-backend-ram' };
  const file = { 'qom-type': 'memory-backend-file', 'mem-path': memory.file };
  // The template's file is opened read-only: no guest can write to what other guests map.
  return memory.kind === 'template' ? { ...file, share: true } : { ...file, share: false, readonly: true, rom: 'off' };
}

function devices(config: DomainConfig): string[] {
  const { nic } = config;
  return [
    text('emulator', '/usr/bin/qemu-system-x86_64'),
    ...config.disks.map(diskElement),
    ...cdromXml(config),
    element(
      'interface',
      { type: nic.bridge === null ? 'ethernet' : 'bridge' },
      element('mac', { address: nic.mac }),
      nic.bridge === null ? null : element('source', { bridge: nic.bridge }),
      element('target', { dev: nic.tap }),
      element('model', { type: 'virtio' }),
      element('mtu', { size: nic.mtu }),
    ),
    serialPort(config),
    element('channel', { type: 'unix' }, element('target', { type: 'virtio', name: 'org.qemu.guest_agent.0' })),
    element(
      'channel',
      { type: 'unix' },
      element('source', { mode: 'bind', path: config.identitySocket }),
      element('target', { type: 'virtio', name: identityPortName }),
    ),
    ...streamChannel(config),
    element('controller', { type: 'usb', model: 'none' }),
    element('rng', { model: 'virtio' }, element('backend', { model: 'random' }, '/dev/urandom')),
    element('memballoon', { model: 'virtio' }),
    ...(config.panicDevice ? [element('panic', { model: 'isa' })] : []),
  ];
}

/** The log has what the guest writes, also while nobody is connected. It goes on when the domain is started again. */
function serialPort({ consoleLog, consoleSocket }: DomainConfig): string {
  const source = element('source', { mode: 'bind', path: consoleSocket });
  const log = element('log', { file: consoleLog, append: 'on' });
  return element('serial', { type: 'unix' }, source, log, element('target', { port: 0 }));
}

function streamChannel({ streamSocket }: DomainConfig): string[] {
  if (streamSocket === null) return [];
  const source = element('source', { mode: 'bind', path: streamSocket });
  return [element('channel', { type: 'unix' }, source, element('target', { type: 'virtio', name: streamPortName }))];
}

/** The target of the CD-ROM drive. */
export const cdromTarget = 'sda';

/** On a virtio controller: kernels made for clouds have drivers for no other. */
function cdromXml({ cdrom }: DomainConfig): string[] {
  if (cdrom === null) return [];
  return [
    element('controller', { type: 'scsi', index: 0, model: 'virtio-scsi' }),
    element(
      'disk',
      { type: 'file', device: 'cdrom' },
      element('driver', { name: 'qemu', type: 'raw' }),
      cdrom.iso === null ? null : element('source', { file: cdrom.iso }),
      element('target', { dev: cdromTarget, bus: 'scsi' }),
      element('readonly', {}),
    ),
  ];
}

const diskElement = (config: DomainDisk): string => diskXml(config, {});

/** One disk, as `virsh blockcopy` reads it as well. @param driver further attributes of its driver */
export function diskXml(config: DomainDisk, driver: Record<string, string>): string {
  return element(
    'disk',
    { type: typeOf(config.source), device: 'disk' },
    // Writeback: the host reads a flushed data disk through the same page cache that QEMU writes to.
    element('driver', { name: 'qemu', type: config.format, cache: 'writeback', discard: 'unmap', ...driver }),
    sourceElement(config.source),
    backingChain(config.backing),
    element('target', { dev: config.target, bus: 'virtio' }),
  );
}

function backingChain([first, ...rest]: DomainDisk['backing']): string {
  if (first === undefined) return element('backingStore', {});
  return element(
    'backingStore',
    { type: typeOf(first.source) },
    element('format', { type: first.format }),
    sourceElement(first.source),
    backingChain(rest),
  );
}

const typeOf = (from: DiskSource): string => (from.kind === 'file' ? 'file' : 'network');

function sourceElement(from: DiskSource): string {
  if (from.kind === 'file') return element('source', { file: from.path });
  return element(
    'source',
    { protocol: 'nfs', name: from.path },
    element('host', { name: from.host }),
    element('identity', { user: 0, group: 0 }),
  );
}
