import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import type { GroupCounters } from '../ports/load/load-meter.ts';
import { isErrno } from './files.ts';
import { parsePressure } from './machine-counters.ts';

/**
 * What the kernel counts of the control group that guests' processes are in.
 * @param folders one with cgroup v2; with v1 that of `cpu` and that of `cpuacct`, which may be the same. None: there is no group
 */
export async function readGuestGroup(folders: readonly string[]): Promise<GroupCounters | null> {
  if (folders.length === 0) return null;
  const [stat, max, quota, period, usage] = await Promise.all(
    ['cpu.stat', 'cpu.max', 'cpu.cfs_quota_us', 'cpu.cfs_period_us', 'cpuacct.usage'].map((name) => readOneOf(folders, name)),
  );
  if (stat == null) throw new Error(`There is no control group in ${folders.join(', ')}: none of them has a cpu.stat`);
  const fields = parseFields(stat);
  const limit = max == null ? limitOf(quota ?? '', period ?? '') : limitOf(...(max.trim().split(' ') as [string, string]));
  return {
    processors: limit ?? availableParallelism(),
    isLimited: limit !== null,
    usedS: usage == null ? numberOf(fields, 'usage_usec') / 1e6 : Number(usage) / 1e9,
    periods: fields.get('nr_periods') ?? 0,
    throttledPeriods: fields.get('nr_throttled') ?? 0,
    pressureUs: await readPressure(folders),
  };
}

async function readOneOf(folders: readonly string[], name: string): Promise<string | null> {
  for (const folder of folders)
    try {
      return await readFile(join(folder, name), 'utf8');
    } catch (error) {
      if (!isErrno(error, 'ENOENT', 'EOPNOTSUPP')) throw error;
    }
  return null;
}

/** Groups of v1 have none. */
async function readPressure(folders: readonly string[]): Promise<GroupCounters['pressureUs']> {
  const texts = await Promise.all(['cpu', 'memory', 'io'].map((kind) => readOneOf(folders, `${kind}.pressure`)));
  if (texts.some((text) => text === null)) return null;
  const [cpu, memory, io] = texts.map((text) => parsePressure(text!)) as [number, number, number];
  return { cpu, memory, io };
}

/** Processors that the group may keep busy; null: it is not limited. */
function limitOf(quota: string, period: string): number | null {
  if (!/^\d{1,15}\s*$/.test(quota)) return null;
  const processors = Number(quota) / Number(period);
  if (!(processors > 0 && Number.isFinite(processors))) throw new Error(`A quota of ${quota} in ${period} us is none`);
  return processors;
}

export function parseFields(text: string): Map<string, number> {
  return new Map([...text.matchAll(/^(\w{1,64}) (\d{1,20})$/gm)].map(([, name, value]) => [name!, Number(value)]));
}

function numberOf(fields: ReadonlyMap<string, number>, name: string): number {
  const value = fields.get(name);
  if (value === undefined) throw new Error(`The cpu.stat of guests' control group has no ${name}`);
  return value;
}
