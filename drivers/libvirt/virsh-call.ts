import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BerthError } from '../../model/errors.ts';
import { type Virsh, type VirshAnswer, VirshUnresponsive } from './virsh.ts';

type VirshCommand = [string, ...string[]];

/** Calls virsh; `host-busy` where it doesn't answer in time. The caller decides what an error in the answer means. */
export async function callVirsh(virsh: Virsh, command: VirshCommand, deadlineMs: number): Promise<VirshAnswer> {
  try {
    return await virsh.call(command, deadlineMs);
  } catch (error) {
    if (!(error instanceof VirshUnresponsive)) throw error;
    throw new BerthError('host-busy', `asking libvirt: ${error.message}`, { cause: error });
  }
}

/** Calls virsh where every error in the answer is one; returns the output. */
type VirshCaller = (command: VirshCommand, deadlineMs?: number) => Promise<string>;

export function createVirshCaller(virsh: Virsh, defaultDeadlineMs: number): VirshCaller {
  return async (command, deadlineMs = defaultDeadlineMs) => {
    const answer = await callVirsh(virsh, command, deadlineMs);
    if (!answer.ok) throw virshError(command, answer.error);
    return answer.output;
  };
}

/** Writes XML to a file for the time of a call: virsh reads it from nowhere else. @param scratch the folder of the file */
export async function withXmlFile(
  scratch: string,
  name: string,
  xml: string,
  act: (file: string) => Promise<unknown>,
): Promise<void> {
  await mkdir(scratch, { recursive: true });
  const file = join(scratch, `${name}.${randomBytes(6).toString('hex')}.xml`);
  await writeFile(file, xml, { mode: 0o600 });
  try {
    await act(file);
  } finally {
    await rm(file, { force: true });
  }
}

/** What libvirt 11 prints when a name, UUID, MAC or tap is in use by another domain. */
const inUsePattern =
  /already exists with uuid|already exists|is already defined with uuid|is already active|already in use|Device or resource busy/i;
/** What it prints when it is only too slow. */
const busyPattern = /Timed out during operation|cannot acquire state change lock|timed out/i;
const diskFullPattern = /No space left on device/i;
/** What it prints where no domain has the name that it was given. */
export const noDomainPattern = /failed to get domain|Domain not found/i;

export function virshError(command: readonly string[], error: string): BerthError {
  const message = `virsh ${command.join(' ')}: ${error.split('\n').slice(0, 6).join(' | ')}`;
  if (inUsePattern.test(error)) return new BerthError('not-ours', message);
  if (busyPattern.test(error)) return new BerthError('host-busy', message);
  if (diskFullPattern.test(error)) return new BerthError('disk-full', message);
  return new BerthError('hypervisor', message);
}
