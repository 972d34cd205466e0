import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { XMLParser } from 'fast-xml-parser';
import { z } from 'zod';
import type { DiskSource } from '../../contracts/domain.ts';
import type { CopyJob, DiskMover } from '../ports/disk-mover.ts';
import { diskXml } from './domain-xml.ts';
import { callVirsh, virshError } from './hypervisor.ts';
import type { Virsh } from './virsh.ts';

const askDeadlineMs = 15_000;
/** Both wait for what is on its way to the disk. */
const jobDeadlineMs = 60_000;

const noJobPattern = /No current block job|no active (block )?job|not found|has no block job|does not have an active block job/i;

/**
 * Block copies of live disks over libvirt: https://libvirt.org/manpages/virsh.html#blockcopy
 * @param mibPerS what one copy may carry; null: as much as the network does
 */
export function openDiskMover(virsh: Virsh, scratch: string, mibPerS: number | null): DiskMover {
  async function ask(command: [string, ...string[]], deadlineMs = askDeadlineMs): Promise<string> {
    const answer = await callVirsh(virsh, command, deadlineMs);
    if (!answer.ok) throw virshError(command, answer.error);
    return answer.output;
  }
  return {
    readSources: async (name) => parseSources(await ask(['dumpxml', name])),
    async startCopy(name, disk) {
      await mkdir(scratch, { recursive: true });
      const file = join(scratch, `${name}.${disk.target}.${randomBytes(6).toString('hex')}.xml`);
      // Zeros that the guest never wrote stay holes in the copy.
      await writeFile(file, diskXml(disk, { detect_zeroes: 'unmap' }), { mode: 0o600 });
      const how = ['--reuse-external', '--transient-job', '--synchronous-writes'];
      if (disk.backing.length > 0) how.push('--shallow');
      if (mibPerS !== null) how.push('--bandwidth', String(mibPerS));
      try {
        await ask(['blockcopy', name, disk.target, '--xml', file, ...how], jobDeadlineMs);
      } finally {
        await rm(file, { force: true });
      }
    },
    async observeCopy(name, target) {
      const answer = await callVirsh(virsh, ['blockjob', name, target, '--info', '--raw'], askDeadlineMs);
      if (answer.ok) return parseCopyJob(answer.output);
      if (noJobPattern.test(answer.error)) return null;
      throw virshError(['blockjob', name, target, '--info'], answer.error);
    },
    async pivot(name, target) {
      await ask(['blockjob', name, target, '--pivot'], jobDeadlineMs);
    },
    async abortCopy(name, target) {
      const answer = await callVirsh(virsh, ['blockjob', name, target, '--abort'], jobDeadlineMs);
      if (!answer.ok && !noJobPattern.test(answer.error)) throw virshError(['blockjob', name, target, '--abort'], answer.error);
    },
  };
}

/** `blockjob --info --raw`: ` type=Copy`, ` bandwidth=0`, ` cur=123`, ` end=456`; nothing where there is no job. */
export function parseCopyJob(output: string): CopyJob | null {
  const value = (name: string): number => Number(new RegExp(`^\\s*${name}=(\\d+)\\s*$`, 'm').exec(output)?.[1] ?? Number.NaN);
  const [copiedBytes, totalBytes] = [value('cur'), value('end')];
  if (Number.isNaN(copiedBytes) || Number.isNaN(totalBytes)) return null;
  // A job that has only begun says 0 of 0.
  return { copiedBytes, totalBytes, ready: totalBytes > 0 && copiedBytes === totalBytes };
}

const oneOrMany = <T extends z.ZodType>(item: T) => z.union([item.transform((found) => [found]), z.array(item)]);
const diskSchema = z.looseObject({
  target: z.looseObject({ dev: z.string() }),
  source: z
    .looseObject({
      file: z.string().optional(),
      name: z.string().optional(),
      host: z.looseObject({ name: z.string() }).optional(),
    })
    .optional(),
});
const domainSchema = z.looseObject({ domain: z.looseObject({ devices: z.looseObject({ disk: oneOrMany(diskSchema) }) }) });

/** From where a live domain has its disks open, by their targets. */
export function parseSources(xml: string): Map<string, DiskSource> {
  const parser = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '' });
  const found = domainSchema.parse(parser.parse(xml));
  const sources = found.domain.devices.disk.map(({ target, source }): [string, DiskSource] => {
    if (source?.file !== undefined) return [target.dev, { kind: 'file', path: source.file }];
    if (source?.name !== undefined && source.host !== undefined)
      return [target.dev, { kind: 'nfs', host: source.host.name, path: source.name }];
    throw new Error(`the disk ${target.dev} of a domain has neither a file nor an NFS path: ${JSON.stringify(source)}`);
  });
  return new Map(sources);
}
