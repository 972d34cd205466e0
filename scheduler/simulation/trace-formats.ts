import { XMLParser, XMLValidator } from 'fast-xml-parser';
import type { z } from 'zod';
import { BerthError } from '../../model/errors.ts';
import { Trace } from './trace.ts';

/**
 * Reads a trace from text: our JSON, the Standard Workload Format of the Parallel Workloads Archive, or Haizea's lease
 * workload format (LWF). The format is recognized from the text. Errors name the field and the value found.
 */
export function readTrace(text: string, name: string): Trace {
  const start = text.trimStart();
  if (start.startsWith('{')) return checked(parseJson(start));
  if (start.startsWith('<')) return checked(fromLwf(start, name));
  return checked(fromSwf(text, name));
}

function bad(pointer: string, detail: string): BerthError {
  return new BerthError('bad-request', `The trace can't be read: ${pointer || '/'}: ${detail}`, {
    fields: [{ pointer, detail }],
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw bad('', `not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function checked(value: unknown): Trace {
  const result = Trace.safeParse(value, { reportInput: true });
  if (result.success) return result.data;
  const fields = result.error.issues.slice(0, 10).map((issue) => fieldError(issue));
  const first = fields[0]!;
  throw new BerthError('bad-request', `The trace can't be read: ${first.pointer || '/'}: ${first.detail}`, { fields });
}

function fieldError(issue: z.core.$ZodIssue): { pointer: string; detail: string } {
  const pointer = issue.path.map((part) => `/${String(part)}`).join('');
  const found = issue.input === undefined ? 'nothing' : JSON.stringify(issue.input);
  return { pointer, detail: `${issue.message}; found ${found.length > 60 ? `${found.slice(0, 60)}…` : found}` };
}

/** The positions of the fields of an SWF line that are used. -1 means unknown. */
const swf = {
  job: 0,
  submit: 1,
  run: 3,
  procsUsed: 4,
  memoryUsedKb: 6,
  procsRequested: 7,
  timeRequested: 8,
  memoryRequestedKb: 9,
} as const;
const swfDefaultMemoryMiB = 512;
const swfFields = 18;

/** A job becomes one best-effort lease of as many single-CPU VMs as it has processors; SWF knows no reservations. */
function fromSwf(text: string, name: string): unknown {
  const header = new Map<string, string>();
  const leases: unknown[] = [];
  for (const [i, line] of text.split('\n').entries()) {
    const trimmed = line.trim();
    if (trimmed === '') continue;
    if (trimmed.startsWith(';')) {
      const [key, value] = trimmed.slice(1).split(/:(.*)/, 2);
      if (key !== undefined && value !== undefined) header.set(key.trim(), value.trim());
      continue;
    }
    const lease = swfLease(trimmed.split(/\s+/), i + 1);
    if (lease !== null) leases.push(lease);
  }
  const processors = Number(header.get('MaxProcs') ?? header.get('MaxNodes') ?? Number.NaN);
  const count = Number(header.get('MaxNodes') ?? processors);
  if (!(count >= 1))
    throw bad('/header/MaxNodes', 'expected "; MaxNodes: <number>" or "; MaxProcs: <number>" among the comments');
  const vcpus = Math.max(1, Math.ceil(processors / count));
  return { name, hosts: { count, vcpus, memoryMiB: vcpus * swfMemory(leases) }, leases };
}

function swfMemory(leases: unknown[]): number {
  return leases.reduce<number>((most, lease) => Math.max(most, (lease as { memoryMiB: number }).memoryMiB), swfDefaultMemoryMiB);
}

function swfLease(fields: string[], line: number): unknown {
  if (fields.length !== swfFields) throw bad(`/line ${line}`, `expected ${swfFields} fields; found ${fields.length}`);
  const field = (key: keyof typeof swf) => {
    const value = Number(fields[swf[key]]);
    if (!Number.isFinite(value))
      throw bad(`/line ${line}/${key}`, `expected a number; found ${JSON.stringify(fields[swf[key]])}`);
    return value;
  };
  const nodes = field('procsRequested') > 0 ? field('procsRequested') : field('procsUsed');
  const durationS = field('timeRequested') > 0 ? field('timeRequested') : field('run');
  if (nodes <= 0 || durationS <= 0) return null; // cancelled before it ran
  const memoryKb = field('memoryRequestedKb') > 0 ? field('memoryRequestedKb') : field('memoryUsedKb');
  return {
    id: String(field('job')),
    kind: 'bestEffort',
    submittedAtS: Math.max(0, field('submit')),
    durationS,
    ...(field('run') > 0 ? { actualDurationS: Math.min(field('run'), durationS) } : {}),
    nodes,
    vcpus: 1,
    memoryMiB: memoryKb > 0 ? Math.ceil(memoryKb / 1024) : swfDefaultMemoryMiB,
    image: '',
    imageMiB: 0,
  };
}

type Element = Record<string, unknown>;
const lwfLists = new Set(['node-set', 'res', 'lease-request']);
/** LWF counts CPU in percent of one. */
const lwfCpu = 100;

function fromLwf(text: string, name: string): unknown {
  const valid = XMLValidator.validate(text);
  if (valid !== true) throw bad(`/line ${valid.err.line}`, valid.err.msg);
  const parser = new XMLParser({ ignoreAttributes: false, attributeNamePrefix: '', isArray: (tag) => lwfLists.has(tag) });
  const workload = child(parser.parse(text), 'lease-workload', '');
  const site = nodeSet(child(workload, 'site', '/lease-workload'), '/lease-workload/site');
  const requests = (child(workload, 'lease-requests', '/lease-workload')['lease-request'] ?? []) as Element[];
  return {
    name: typeof workload.name === 'string' ? workload.name : name,
    hosts: { count: site.count, vcpus: site.vcpus, memoryMiB: site.memoryMiB },
    leases: requests.map((request, i) => lwfLease(request, i)),
  };
}

function child(parent: unknown, tag: string, path: string): Element {
  const found = (parent as Element)[tag];
  if (found === '') return {};
  if (typeof found !== 'object' || found === null || Array.isArray(found))
    throw bad(`${path}/${tag}`, 'expected this element once');
  return found as Element;
}

function lwfLease(request: Element, i: number): unknown {
  const path = `/lease-workload/lease-requests/${i}`;
  const lease = child(request, 'lease', path);
  const set = nodeSet(lease, path);
  const start = lease.start === undefined ? {} : child(lease, 'start', path);
  const image =
    typeof lease.software === 'object' && lease.software !== null ? (lease.software as Element)['disk-image'] : undefined;
  const disk = (image ?? {}) as Element;
  const kind = start.exact !== undefined ? 'reservation' : start.now !== undefined ? 'immediate' : 'bestEffort';
  const time = (value: unknown, where: string) => lwfSeconds(value, `${path}/${where}`);
  return {
    id: String(lease.id ?? i + 1),
    kind,
    submittedAtS: time(request.arrival, 'arrival'),
    ...(kind === 'reservation' ? { startAtS: time((start.exact as Element).time, 'start/exact') } : {}),
    durationS: time(child(lease, 'duration', path).time, 'duration'),
    ...(request.realduration === undefined
      ? {}
      : { actualDurationS: time((request.realduration as Element).time, 'realduration') }),
    ...(lease.deadline === undefined ? {} : { deadlineAtS: time((lease.deadline as Element).time, 'deadline') }),
    nodes: set.count,
    vcpus: set.vcpus,
    memoryMiB: set.memoryMiB,
    image: String(disk.id ?? ''),
    imageMiB: disk.size === undefined ? 0 : Number(disk.size),
    ...(lease.preemptible === undefined || kind !== 'bestEffort' ? {} : { preemptible: lwfTrue(lease.preemptible) }),
  };
}

function lwfTrue(value: unknown): boolean {
  return String(value).toLowerCase() === 'true';
}

/** Equal nodes only: other leases are not supported, and the published workloads have none. */
function nodeSet(parent: Element, path: string): { count: number; vcpus: number; memoryMiB: number } {
  const sets = (child(parent, 'nodes', path)['node-set'] ?? []) as Element[];
  if (sets.length !== 1) throw bad(`${path}/nodes/node-set`, `expected one set of equal nodes; found ${sets.length}`);
  const amounts = new Map(((sets[0]!.res ?? []) as Element[]).map((res) => [String(res.type), Number(res.amount)]));
  const amount = (type: string) => {
    const value = amounts.get(type);
    if (value === undefined || !(value > 0))
      throw bad(`${path}/nodes/node-set/res[${type}]`, `expected an amount; found ${value}`);
    return value;
  };
  return { count: Number(sets[0]!.numnodes), vcpus: amount('CPU') / lwfCpu, memoryMiB: amount('Memory') };
}

/** [DD:]HH:MM:SS[.ss] in seconds. */
function lwfSeconds(value: unknown, path: string): number {
  const match = /^(?:(\d+):)?(\d+):(\d{1,2}):(\d{1,2}(?:\.\d+)?)$/.exec(String(value ?? ''));
  if (match === null) throw bad(path, `expected a time as HH:MM:SS; found ${JSON.stringify(value ?? null)}`);
  const [, days, hours, minutes, seconds] = match;
  return Number(days ?? 0) * 86_400 + Number(hours) * 3600 + Number(minutes) * 60 + Number(seconds);
}
