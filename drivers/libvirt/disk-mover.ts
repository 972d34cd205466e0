import { XMLParser } from 'fast-xml-parser';
import { z } from 'zod';
import type { DiskSource } from '../../contracts/domain.ts';
import type { CopyJob, DiskMover } from '../ports/disk-mover.ts';
import { diskXml } from './domain-xml.ts';
import type { Virsh } from './virsh.ts';
import { callVirsh, createVirshCaller, virshError, withXmlFile } from './virsh-call.ts';

const callDeadlineMs = 15_000;
/** A pivot and an abort both wait for writes in flight. */
const jobDeadlineMs = 60_000;

const noJobPattern = /No current block job|no active (block )?job|not found|has no block job|does not have an active block job/i;

/**
 * Block copies of live disks over libvirt: https://libvirt.org/manpages/virsh.html#blockcopy
 * @param mibPerS the bandwidth limit of one copy; null: none
 */
export function openDiskMover(virsh: Virsh, scratch: string, mibPerS: number | null): DiskMover {
  const call = createVirshCaller(virsh, callDeadlineMs);
  return {
    readSources: async (name) => parseSources(await call(['dumpxml', name])),
    async startCopy(name, disk) {
      const options = ['--reuse-external', '--transient-job', '--synchronous-writes'];
      if (disk.backing.length > 0) options.push('--shallow');
      if (mibPerS !== null) options.push('--bandwidth', String(mibPerS));
      // Zeros that the guest never wrote remain holes in the copy.
      await withXmlFile(scratch, `${name}.${disk.target}`, diskXml(disk, { detect_zeroes: 'unmap' }), (file) =>
        call(['blockcopy', name, disk.target, '--xml', file, ...options], jobDeadlineMs),
      );
    },
    async observeCopy(name, target) {
      const answer = await callVirsh(virsh, ['blockjob', name, target, '--info', '--raw'], callDeadlineMs);
      if (answer.ok) return parseCopyJob(answer.output);
      if (noJobPattern.test(answer.error)) return null;
      throw virshError(['blockjob', name, target, '--info'], answer.error);
    },
    async pivot(name, target) {
      await call(['blockjob', name, target, '--pivot'], jobDeadlineMs);
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
  // A job that has just begun reports 0 of 0.
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

/** The sources of a live domain's disks, by target. */
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
