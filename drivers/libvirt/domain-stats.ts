import { BerthError } from '../../model/errors.ts';
import type { DomainCounters } from '../ports/load/load-meter.ts';
import type { Virsh } from './virsh.ts';
import { callVirsh, createVirshCaller, noDomainPattern, virshError } from './virsh-call.ts';

const deadlineMs = 10_000;
/** Of one domain's disks: a job of that domain may hold it up. */
const diskDeadlineMs = 2000;

/** More than any host runs, and more lines than libvirt prints for a domain with a hundred disks. */
export const domainStatsLimits = { domains: 4096, linesPerDomain: 20_000, lineLength: 8192 } as const;

/** `--nowait`: a domain that a job keeps busy does not delay the others; what it can't say then is left out. */
const domainStats: [string, ...string[]] = ['domstats', '--raw', '--nowait'];
const inAllDomains: typeof domainStats = [...domainStats, '--vcpu', '--balloon', '--interface', '--list-running'];

/**
 * Of the disks of domains whose disks are on this host with one question for all of them, of each other one alone: `--block` has QEMU
 * look how much room each disk takes, and on a server of NFS that does not answer the whole guest waits for that, its agent
 * included (docs/load.md).
 * @param hasDisksHere of a domain, by its name
 */
export async function readDomainStats(virsh: Virsh, hasDisksHere: (name: string) => Promise<boolean>): Promise<DomainCounters[]> {
  const found = parseFields(await createVirshCaller(virsh, deadlineMs)(inAllDomains));
  const here: string[] = [];
  for (const [name, fields] of found) {
    if (await hasDisksHere(name)) here.push(name);
    else for (const [field, bytes] of parseDiskStats(await readDiskStats(virsh, name))) fields.set(field, bytes);
  }
  for (const [name, blocks] of parseFields(await readBlocks(virsh, here)))
    for (const [field, bytes] of blocks) found.get(name)?.set(field, bytes);
  return countersOfAll(found);
}

/** virsh says nothing of any where one of them has ended meanwhile: then each is asked about alone. */
async function readBlocks(virsh: Virsh, names: readonly string[]): Promise<string> {
  if (names.length === 0) return '';
  const answer = await callVirsh(virsh, [...domainStats, '--block', ...names], deadlineMs);
  if (answer.ok) return answer.output;
  if (!noDomainPattern.test(answer.error)) throw virshError(['domstats', '--block'], answer.error);
  if (names.length === 1) return '';
  const each: string[] = [];
  for (const name of names) each.push(await readBlocks(virsh, [name]));
  return each.join('\n');
}

/** Empty where the domain has ended, or is busy. */
async function readDiskStats(virsh: Virsh, name: string): Promise<string> {
  const answer = await callVirsh(virsh, ['domblkstat', name], diskDeadlineMs);
  return answer.ok ? answer.output : '';
}

const headPattern = /^Domain: '([^']{1,255})'$/;
const fieldPattern = /^ {2}([a-zA-Z0-9._-]{1,128})=(.*)$/;

/**
 * What `virsh domstats` prints (virsh(1)): a head for each domain and a line for each field. Fields that are not known are left
 * out, whatever they are. Throws hypervisor for what is not of this form.
 */
export function parseDomainStats(output: string): DomainCounters[] {
  return countersOfAll(parseFields(output));
}

/** What is counted of each domain, by its name. */
type DomainFields = Map<string, Map<string, string>>;

const countersOfAll = (found: DomainFields): DomainCounters[] =>
  [...found].flatMap(([name, fields]) => countersOf(name, fields) ?? []);

function parseFields(output: string): DomainFields {
  const domains: DomainFields = new Map();
  let open: { fields: Map<string, string>; lines: number } | null = null;
  let heads = 0;
  for (const line of output.split('\n')) {
    if (line.length > domainStatsLimits.lineLength) throw unknown(line);
    if (line.trim() === '') continue;
    const head = headPattern.exec(line)?.[1];
    if (head !== undefined) {
      heads += 1;
      if (heads > domainStatsLimits.domains) throw new BerthError('hypervisor', `virsh domstats: more than ${heads - 1} domains`);
      open = { fields: new Map(), lines: 0 };
      domains.set(head, open.fields);
      continue;
    }
    const field: RegExpExecArray | null = fieldPattern.exec(line);
    if (field === null || open === null) throw unknown(line);
    open.lines += 1;
    if (open.lines > domainStatsLimits.linesPerDomain) throw unknown(line);
    if (countedPattern.test(field[1]!)) open.fields.set(field[1]!, field[2]!);
  }
  return domains;
}

/** What `virsh domblkstat` prints of all disks of a domain together: a line for each counter. */
export function parseDiskStats(output: string): [field: string, bytes: string][] {
  return [...output.matchAll(/^ *(rd|wr)_bytes (\d{1,20})$/gm)].map(([, way, bytes]) => [`block.0.${way}.bytes`, bytes!]);
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
