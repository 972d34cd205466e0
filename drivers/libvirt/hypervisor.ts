import { setTimeout as delay } from 'node:timers/promises';
import type { DomainConfig, DomainState, DomainStatus } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import { readHead } from '../host/files.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import { watchDomainEvents } from './domain-events.ts';
import { domainLogFolder, readDomainEnd } from './domain-log.ts';
import { cdromTarget, domainXml } from './domain-xml.ts';
import { isOrphaned, removeOrphaned } from './orphaned-domain.ts';
import { savedMagic } from './save-file.ts';
import type { Virsh } from './virsh.ts';
import { callVirsh, createVirshCaller, virshError, withXmlFile } from './virsh-call.ts';

export const libvirtUri = 'qemu:///system';

/** libvirt answers these from memory; a few seconds already mean that something is wrong. */
const callDeadlineMs = 10_000;
/** Starting QEMU: 0.2 s on an idle machine, several when twelve start at once on two cores. */
const createDeadlineMs = 60_000;
/** libvirt waits 15 s for QEMU to end before it kills it, and 15 s after. */
const destroyDeadlineMs = 45_000;
const restartPollMs = 100;
/** The largest guest's memory at 100 MB/s. libvirt continues after its client has timed out; a retry finds the save active. */
const saveDeadlineMs = 45 * 60_000;

const libvirtStates = {
  running: 'running',
  idle: 'running',
  paused: 'paused',
  'in shutdown': 'shutdown',
  'shut off': 'shutoff',
  crashed: 'crashed',
  pmsuspended: 'pmsuspended',
} as const satisfies Record<string, DomainState>;

/**
 * The hypervisor of this host, through pooled virsh processes: those of `longVirsh` may be held for as long as a guest's
 * memory takes to be written. `scratch` is a folder for what virsh reads from files.
 */
export function openHypervisor(virsh: Virsh, longVirsh: Virsh, scratch: string): Hypervisor {
  const call = createVirshCaller(virsh, callDeadlineMs);
  const callLong = createVirshCaller(longVirsh, saveDeadlineMs);
  const status = (name: string): Promise<DomainStatus | null> => domainStatus(virsh, name, callDeadlineMs);
  const withDomainXml = (config: DomainConfig, act: (file: string) => Promise<unknown>): Promise<void> =>
    withXmlFile(scratch, config.name, domainXml(config), act);

  return {
    status,
    async list() {
      const lines = (await call(['list', '--all', '--uuid', '--name'])).split('\n').filter((line) => line.trim() !== '');
      const domains = await Promise.all(
        lines.map(async (line) => {
          const match = /^(\S+)\s+(.+?)\s*$/.exec(line);
          if (match?.[1] === undefined || match[2] === undefined)
            throw new BerthError('hypervisor', `virsh list printed the line "${line}", which is unknown`);
          const found = await status(match[2]);
          return found === null ? null : { name: match[2], uuid: match[1], status: found };
        }),
      );
      return domains.filter((domain) => domain !== null);
    },
    async create(config) {
      await withDomainXml(config, (file) => call(['create', file], createDeadlineMs));
    },
    async destroy(name) {
      if (await isOrphaned(name)) {
        await removeOrphaned(name);
        await awaitLibvirtd(() => status(name));
      }
      const answer = await callVirsh(virsh, ['destroy', name], destroyDeadlineMs);
      if (!answer.ok && (await status(name)) !== null) throw virshError(['destroy', name], answer.error);
    },
    lastEnd: (name) => readDomainEnd(domainLogFolder, name),
    watch: (onChange, signal) => watchDomainEvents(libvirtUri, onChange, signal),
    async pauseCpus(name) {
      await call(['suspend', name]);
    },
    async resumeCpus(name) {
      const asleep = (await status(name))?.state === 'pmsuspended';
      await call([asleep ? 'dompmwakeup' : 'resume', name]);
    },
    async eject(name) {
      const answer = await callVirsh(virsh, ['change-media', name, cdromTarget, '--eject', '--force', '--live'], callDeadlineMs);
      if (!answer.ok && !/doesn't have media/.test(answer.error)) throw virshError(['change-media', name], answer.error);
    },
    async reset(name) {
      await call(['reset', name]);
    },
    async save(name, file) {
      await callLong(['save', name, file, '--running']);
    },
    async isSaved(file) {
      return (await readHead(file, savedMagic.length)).toString('latin1') === savedMagic;
    },
    async restore(file, config) {
      await withDomainXml(config, (xml) => callLong(['restore', file, '--xml', xml, '--paused']));
    },
    async version() {
      const text = await call(['version']);
      const qemu = /Running hypervisor: (.+)/.exec(text)?.[1] ?? 'unknown hypervisor';
      const library = /Using library: libvirt (.+)/.exec(text)?.[1] ?? '?';
      return `${qemu}, libvirt ${library}`;
    },
  };
}

/** Waits until libvirtd, which was killed, answers again: half a second. Throws the error of the last call at the deadline. */
async function awaitLibvirtd(ask: () => Promise<unknown>): Promise<void> {
  for (const endMs = performance.now() + callDeadlineMs; ; await delay(restartPollMs))
    try {
      await ask();
      return;
    } catch (error) {
      if (!(error instanceof BerthError) || performance.now() > endMs) throw error;
    }
}

/** Through any connection, this host's or another's. null: a complete list doesn't have it. */
export async function domainStatus(virsh: Virsh, name: string, deadlineMs: number): Promise<DomainStatus | null> {
  const answer = await callVirsh(virsh, ['domstate', '--reason', name], deadlineMs);
  if (answer.ok) return parseState(name, answer.output);
  // virsh also prints "Failed to get domain" when its connection breaks: only a complete list without the domain proves that it is gone.
  const list = await callVirsh(virsh, ['list', '--all', '--name'], deadlineMs);
  if (!list.ok) throw virshError(['list'], list.error);
  if (!list.output.split('\n').includes(name)) return null;
  throw virshError(['domstate', name], answer.error);
}

/** `domstate --reason` prints "running (booted)". */
export function parseState(name: string, output: string): DomainStatus {
  const match = /^([a-z ]+?)(?: \((.*)\))?$/.exec(output.trim());
  const word = match?.[1];
  if (word === undefined || !Object.hasOwn(libvirtStates, word))
    throw new BerthError('hypervisor', `reading the state of ${name}: virsh printed "${output.trim()}"`);
  return { state: libvirtStates[word as keyof typeof libvirtStates], reason: match?.[2] ?? 'unknown' };
}
