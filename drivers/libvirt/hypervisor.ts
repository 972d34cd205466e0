import { randomBytes } from 'node:crypto';
import { mkdir, open, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { DomainConfig, DomainState, DomainStatus } from '../../contracts/domain.ts';
import { BerthError } from '../../model/errors.ts';
import { isErrno } from '../host/files.ts';
import type { Hypervisor } from '../ports/hypervisor.ts';
import { cdromTarget, domainXml } from './domain-xml.ts';
import { isOrphaned, removeOrphaned } from './orphaned-domain.ts';
import { type Virsh, VirshUnresponsive } from './virsh.ts';

/** libvirt answers these from memory; a few seconds are already a sign of trouble. */
const askDeadlineMs = 10_000;
/** Starting QEMU: 0.2 s on an idle machine, several when twelve start at once on two cores. */
const createDeadlineMs = 60_000;
/** QEMU gets 15 s from libvirt to go before it is killed, and the same again. */
const destroyDeadlineMs = 45_000;
const restartPollMs = 100;
/** The largest guest's memory at 100 MB/s. libvirt goes on when its client is given up; whoever asks again sees that. */
const saveDeadlineMs = 45 * 60_000;

/** The first bytes of what `virsh save` wrote: it ends in `Part` until all of it is there (qemu_saveimage.h). */
const savedMagic = 'LibvirtQemudSave';

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
 * The hypervisor of this host, through kept virsh processes: those of `movers` may be held for as long as a guest's memory
 * takes to be written. `scratch` is a folder for what virsh reads from files.
 */
export function openHypervisor(virsh: Virsh, longVirsh: Virsh, scratch: string): Hypervisor {
  async function runVirsh(command: [string, ...string[]], deadlineMs = askDeadlineMs, pool = virsh): Promise<string> {
    const answer = await callVirsh(pool, command, deadlineMs);
    if (!answer.ok) throw virshError(command, answer.error);
    return answer.output;
  }
  const status = (name: string): Promise<DomainStatus | null> => domainStatus(virsh, name, askDeadlineMs);
  async function withDomainXmlFile(config: DomainConfig, act: (file: string) => Promise<unknown>): Promise<void> {
    await mkdir(scratch, { recursive: true });
    const file = join(scratch, `${config.name}.${randomBytes(6).toString('hex')}.xml`);
    await writeFile(file, domainXml(config), { mode: 0o600 });
    try {
      await act(file);
    } finally {
      await rm(file, { force: true });
    }
  }

  return {
    status,
    async list() {
      const lines = (await runVirsh(['list', '--all', '--uuid', '--name'])).split('\n').filter((line) => line.trim() !== '');
      const domains = await Promise.all(
        lines.map(async (line) => {
          const match = /^(\S+)\s+(.+?)\s*$/.exec(line);
          if (match?.[1] === undefined || match[2] === undefined)
            throw new BerthError('hypervisor', `virsh list: what is "${line}"?`);
          const found = await status(match[2]);
          return found === null ? null : { name: match[2], uuid: match[1], status: found };
        }),
      );
      return domains.filter((domain) => domain !== null);
    },
    async create(config) {
      await withDomainXmlFile(config, (file) => runVirsh(['create', file], createDeadlineMs));
    },
    async destroy(name) {
      if (await isOrphaned(name)) {
        await removeOrphaned(name);
        await awaitLibvirtd(() => status(name));
      }
      const answer = await callVirsh(virsh, ['destroy', name], destroyDeadlineMs);
      if (!answer.ok && (await status(name)) !== null) throw virshError(['destroy', name], answer.error);
    },
    async pauseCpus(name) {
      await runVirsh(['suspend', name]);
    },
    async resumeCpus(name) {
      await runVirsh(['resume', name]);
    },
    async eject(name) {
      const answer = await callVirsh(virsh, ['change-media', name, cdromTarget, '--eject', '--force', '--live'], askDeadlineMs);
      if (!answer.ok && !/doesn't have media/.test(answer.error)) throw virshError(['change-media', name], answer.error);
    },
    async reset(name) {
      await runVirsh(['reset', name]);
    },
    async save(name, file) {
      await runVirsh(['save', name, file, '--running'], saveDeadlineMs, longVirsh);
    },
    async isSaved(file) {
      return (await firstBytes(file, savedMagic.length)) === savedMagic;
    },
    async restore(file, config) {
      await withDomainXmlFile(config, (xml) => runVirsh(['restore', file, '--xml', xml, '--paused'], saveDeadlineMs, longVirsh));
    },
    async version() {
      const text = await runVirsh(['version']);
      const qemu = /Running hypervisor: (.+)/.exec(text)?.[1] ?? 'unknown hypervisor';
      const library = /Using library: libvirt (.+)/.exec(text)?.[1] ?? '?';
      return `${qemu}, libvirt ${library}`;
    },
  };
}

/** Asks until libvirtd, which was ended, answers: it takes half a second. Throws what the last one says. */
async function awaitLibvirtd(ask: () => Promise<unknown>): Promise<void> {
  for (const endMs = performance.now() + askDeadlineMs; ; await delay(restartPollMs))
    try {
      await ask();
      return;
    } catch (error) {
      if (!(error instanceof BerthError) || performance.now() > endMs) throw error;
    }
}

/** Fewer where the file has fewer, none where there is no file. */
async function firstBytes(path: string, count: number): Promise<string> {
  try {
    const file = await open(path, 'r');
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(count), 0, count, 0);
      return buffer.toString('latin1', 0, bytesRead);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return '';
    throw error;
  }
}

/** Through any connection, this host's or another's. null: proved by a list without it. */
export async function domainStatus(virsh: Virsh, name: string, deadlineMs: number): Promise<DomainStatus | null> {
  const answer = await callVirsh(virsh, ['domstate', '--reason', name], deadlineMs);
  if (answer.ok) return parseState(name, answer.output);
  // "Failed to get domain" is also what a dying connection says. That it is gone is proved by a whole list without it.
  const list = await callVirsh(virsh, ['list', '--all', '--name'], deadlineMs);
  if (!list.ok) throw virshError(['list'], list.error);
  if (!list.output.split('\n').includes(name)) return null;
  throw virshError(['domstate', name], answer.error);
}

export async function callVirsh(virsh: Virsh, command: [string, ...string[]], deadlineMs: number) {
  try {
    return await virsh.call(command, deadlineMs);
  } catch (error) {
    if (!(error instanceof VirshUnresponsive)) throw error;
    throw new BerthError('host-busy', `asking libvirt: ${error.message}`, { cause: error });
  }
}

/** `domstate --reason` prints "running (booted)". */
export function parseState(name: string, output: string): DomainStatus {
  const match = /^([a-z ]+?)(?: \((.*)\))?$/.exec(output.trim());
  const word = match?.[1];
  if (word === undefined || !Object.hasOwn(libvirtStates, word))
    throw new BerthError('hypervisor', `asking for the state of ${name}: virsh said "${output.trim()}"`);
  return { state: libvirtStates[word as keyof typeof libvirtStates], reason: match?.[2] ?? 'unknown' };
}

/** What libvirt 11 says when a name, UUID, MAC or tap belongs to another, and when it merely is too slow. */
const inUsePattern =
  /already exists with uuid|already exists|is already defined with uuid|is already active|already in use|Device or resource busy/i;
const busyPattern = /Timed out during operation|cannot acquire state change lock|timed out/i;
const diskFullPattern = /No space left on device/i;

export function virshError(command: readonly string[], error: string): BerthError {
  const message = `virsh ${command.join(' ')}: ${error.split('\n').slice(0, 6).join(' | ')}`;
  if (inUsePattern.test(error)) return new BerthError('not-ours', message);
  if (busyPattern.test(error)) return new BerthError('host-busy', message);
  if (diskFullPattern.test(error)) return new BerthError('disk-full', message);
  return new BerthError('hypervisor', message);
}
