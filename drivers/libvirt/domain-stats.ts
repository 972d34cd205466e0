import { BerthError } from '../../model/errors.ts';
import type { DomainCounters } from '../ports/load/load-meter.ts';
import type { Virsh } from './virsh.ts';
import { createVirshCaller } from './virsh-call.ts';

const deadlineMs = 10_000;

/** More than any host runs, and more lines than libvirt prints for a domain with a hundred disks. */
export const domainStatsLimits = { domains: 4096, linesPerDomain: 20_000, lineLength: 8192 } as const;

/** `--nowait`: a domain that a job keeps busy does not delay the others; what it can't say then is left out. */
const command: [string, ...string[]] = [
  'domstats',
  '--vcpu',
  '--balloon',
  '--interface',
  '--block',
  '--list-running',
  '--raw',
  '--nowait',
];

export async function readDomainStats(virsh: Virsh): Promise<DomainCounters[]> {
  return parseDomainStats(await createVirshCaller(virsh, deadlineMs)(command));
}

const headPattern = /^Domain: '([^']{1,255})'$/;
const fieldPattern = /^ {2}([a-zA-Z0-9._-]{1,128})=(.*)$/;

/**
 * What `virsh domstats` prints (virsh(1)): a head for each domain and a line for each field. Fields that are not known are left
 * out, whatever they are. Throws hypervisor for what is not of this form.
 */
export function parseDomainStats(output: string): DomainCounters[] {
  const domains: DomainCounters[] = [];
  let open: { name: string; fields: Map<string, string>; lines: number } | null = null;
  const close = (): void => {
    const found = open === null ? null : countersOf(open.name, open.fields);
    if (found !== null) domains.push(found);
    open = null;
  };
  let heads = 0;
  for (const line of output.split('\n')) {
    if (line.length > domainStatsLimits.lineLength) throw unknown(line);
    if (line.trim() === '') continue;
    const head = headPattern.exec(line)?.[1];
    if (head !== undefined) {
      close();
      heads += 1;
      if (heads > domainStatsLimits.domains) throw new BerthError('hypervisor', `virsh domstats: more than ${heads - 1} domains`);
      open = { name: head, fields: new Map(), lines: 0 };
      continue;
    }
    const field: RegExpExecArray | null = fieldPattern.exec(line);
    if (field === null || open === null) throw unknown(line);
    open.lines += 1;
    if (open.lines > domainStatsLimits.linesPerDomain) throw unknown(line);
    if (countedPattern.test(field[1]!)) open.fields.set(field[1]!, field[2]!);
  }
  close();
  return domains;
}

const unknown = (line: string): BerthError =>
  new BerthError('hypervisor', `virsh domstats printed the line ${JSON.stringify(line.slice(0, 200))}, which is unknown`);

/** The fields that are counted. */
const countedPattern =
  /^(?:vcpu\.\d{1,5}\.(?:time|delay)|balloon\.(?:rss|available|usable)|net\.\d{1,5}\.[rt]x\.bytes|block\.\d{1,5}\.(?:rd|wr)\.bytes)$/;

function countersOf(name: string, fields: ReadonlyMap<string, string>): DomainCounters | null {
  const sum = (pattern: RegExp): number =>
    [...fields].reduce((all, [field, text]) => (pattern.test(field) ? all + numberOf(field, text) : all), 0);
  // A domain that is ending, or busy with a job, has none.
  if (![...fields.keys()].some((field) => /^vcpu\.\d+\.time$/.test(field))) return null;
  const one = (field: string): number | null => {
    const text = fields.get(field);
    return text === undefined ? null : numberOf(field, text);
  };
  const [available, usable, rss] = [one('balloon.available'), one('balloon.usable'), one('balloon.rss')];
  const memoryKiB = available !== null && usable !== null ? Math.max(0, available - usable) : rss;
  return {
    name,
    cpuNs: sum(/^vcpu\.\d+\.time$/),
    delayNs: sum(/^vcpu\.\d+\.delay$/),
    memoryMiB: memoryKiB === null ? null : memoryKiB / 1024,
    readBytes: sum(/^block\.\d+\.rd\.bytes$/),
    writtenBytes: sum(/^block\.\d+\.wr\.bytes$/),
    receivedBytes: sum(/^net\.\d+\.rx\.bytes$/),
    sentBytes: sum(/^net\.\d+\.tx\.bytes$/),
  };
}

function numberOf(field: string, text: string): number {
  if (!/^\d{1,20}$/.test(text)) throw unknown(`  ${field}=${text}`);
  return Number(text);
}
