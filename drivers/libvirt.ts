import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BerthError } from '../model/errors.ts';
import { domainXml } from './domain-xml.ts';
import type { DomainState, DomainStatus, Hypervisor } from './ports.ts';
import { type Virsh, VirshSilent } from './virsh.ts';

/** libvirt answers these from memory; a few seconds are already a sign of trouble. */
const askDeadlineMs = 10_000;
/** Starting QEMU: 0.2 s on an idle machine, several when twelve start at once on two cores. */
const createDeadlineMs = 60_000;
/** QEMU gets 15 s from libvirt to go before it is killed, and the same again. */
const destroyDeadlineMs = 45_000;

const states = {
  running: 'running',
  idle: 'running',
  paused: 'paused',
  'in shutdown': 'shutdown',
  'shut off': 'shutoff',
  crashed: 'crashed',
  pmsuspended: 'pmsuspended',
} as const satisfies Record<string, DomainState>;

/** The hypervisor of this host, through kept virsh processes. `scratch` is a folder for what virsh reads from files. */
export function openLibvirt(virsh: Virsh, scratch: string): Hypervisor {
  async function ask(command: [string, ...string[]], deadlineMs = askDeadlineMs): Promise<string> {
    const answer = await quick(virsh, command, deadlineMs);
    if (!answer.ok) throw refusal(command, answer.error);
    return answer.output;
  }
  const status = (name: string): Promise<DomainStatus | null> => domainStatus(virsh, name, askDeadlineMs);

  return {
    status,
    async list() {
      const lines = (await ask(['list', '--all', '--uuid', '--name'])).split('\n').filter((line) => line.trim() !== '');
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
      await mkdir(scratch, { recursive: true });
      const file = join(scratch, `${config.name}.${randomBytes(6).toString('hex')}.xml`);
      await writeFile(file, domainXml(config), { mode: 0o600 });
      try {
        await ask(['create', file], createDeadlineMs);
      } finally {
        await rm(file, { force: true });
      }
    },
    async destroy(name) {
      const answer = await quick(virsh, ['destroy', name], destroyDeadlineMs);
      if (!answer.ok && (await status(name)) !== null) throw refusal(['destroy', name], answer.error);
    },
    async suspendCpus(name) {
      await ask(['suspend', name]);
    },
    async resumeCpus(name) {
      await ask(['resume', name]);
    },
    async version() {
      const text = await ask(['version']);
      const qemu = /Running hypervisor: (.+)/.exec(text)?.[1] ?? 'unknown hypervisor';
      const library = /Using library: libvirt (.+)/.exec(text)?.[1] ?? '?';
      return `${qemu}, libvirt ${library}`;
    },
  };
}

/** Through any connection, this host's or another's. null: proved by a list without it. */
export async function domainStatus(virsh: Virsh, name: string, deadlineMs: number): Promise<DomainStatus | null> {
  const answer = await quick(virsh, ['domstate', '--reason', name], deadlineMs);
  if (answer.ok) return parseState(name, answer.output);
  // "Failed to get domain" is also what a dying connection says. That it is gone is proved by a whole list without it.
  const list = await quick(virsh, ['list', '--all', '--name'], deadlineMs);
  if (!list.ok) throw refusal(['list'], list.error);
  if (!list.output.split('\n').includes(name)) return null;
  throw refusal(['domstate', name], answer.error);
}

export async function quick(virsh: Virsh, command: [string, ...string[]], deadlineMs: number) {
  try {
    return await virsh.call(command, deadlineMs);
  } catch (error) {
    if (!(error instanceof VirshSilent)) throw error;
    throw new BerthError('host-busy', `asking libvirt: ${error.message}`, { cause: error });
  }
}

/** `domstate --reason` prints "running (booted)". */
export function parseState(name: string, output: string): DomainStatus {
  const match = /^([a-z ]+?)(?: \((.*)\))?$/.exec(output.trim());
  const word = match?.[1];
  if (word === undefined || !Object.hasOwn(states, word))
    throw new BerthError('hypervisor', `asking for the state of ${name}: virsh said "${output.trim()}"`);
  return { state: states[word as keyof typeof states], reason: match?.[2] ?? 'unknown' };
}

/** What libvirt 11 says when a name, UUID, MAC or tap belongs to another, and when it merely is too slow. */
const inUse =
  /already exists with uuid|already exists|is already defined with uuid|is already active|already in use|Device or resource busy/i;
const slow = /Timed out during operation|cannot acquire state change lock|timed out/i;
const full = /No space left on device/i;

export function refusal(command: readonly string[], error: string): BerthError {
  const message = `virsh ${command.join(' ')}: ${error.split('\n').slice(0, 6).join(' | ')}`;
  if (inUse.test(error)) return new BerthError('not-ours', message);
  if (slow.test(error)) return new BerthError('host-busy', message);
  if (full.test(error)) return new BerthError('disk-full', message);
  return new BerthError('hypervisor', message);
}
