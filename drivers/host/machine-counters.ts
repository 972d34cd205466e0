import { readFile, statfs } from 'node:fs/promises';
import type { GroupCounters, MachineCounters } from '../ports/load/load-meter.ts';
import { isErrno } from './files.ts';

const mib = 2 ** 20;

/**
 * What the kernel counts of this machine, from /proc.
 * @param root the folder whose file system is counted
 * @param guests what it counts of guests alone
 */
export async function readMachineCounters(root: string, guests: GroupCounters | null = null): Promise<MachineCounters> {
  const read = (path: string): Promise<string> => readFile(path, 'utf8');
  const [stat, meminfo, diskstats, devices, disk, pressureUs] = await Promise.all([
    read('/proc/stat'),
    read('/proc/meminfo'),
    read('/proc/diskstats'),
    read('/proc/self/net/dev'),
    statfs(root),
    readPressure(),
  ]);
  return {
    atMs: performance.now(),
    processors: parseProcessors(stat),
    pressureUs,
    guests,
    memory: parseMemory(meminfo),
    disk: { totalMiB: (disk.blocks * disk.bsize) / mib, usedMiB: ((disk.blocks - disk.bfree) * disk.bsize) / mib },
    ...parseDisks(diskstats),
    ...parseDevices(devices),
  };
}

/** Kernels without PSI have no such file, and those where it is switched off refuse to read it. */
async function readPressure(): Promise<MachineCounters['pressureUs']> {
  const read = async (name: string): Promise<number> => parsePressure(await readFile(`/proc/pressure/${name}`, 'utf8'));
  try {
    const [cpu, memory, io] = await Promise.all([read('cpu'), read('memory'), read('io')]);
    return { cpu, memory, io };
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'EOPNOTSUPP', 'EACCES')) return null;
    throw error;
  }
}

/** `some avg10=… total=N`: N is in microseconds (Documentation/accounting/psi.rst). */
export function parsePressure(text: string): number {
  return numberIn(/^some .*\btotal=(\d{1,20})$/m.exec(text)?.[1], '/proc/pressure', text);
}

/** proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, in ticks; guest time is in user time. */
export function parseProcessors(text: string): MachineCounters['processors'] {
  const found = [...text.matchAll(/^cpu\d+ ([\d ]+)$/gm)].map(([line, list]) => {
    const ticks = list!
      .trim()
      .split(/ +/)
      .slice(0, 8)
      .map((text) => numberIn(text, '/proc/stat', line));
    if (ticks.length < 5) throw unknown('/proc/stat', line);
    const busy = ticks.reduce((all, one, at) => (at === 3 || at === 4 ? all : all + one), 0);
    return { busy, total: busy + ticks[3]! + ticks[4]! };
  });
  if (found.length === 0) throw unknown('/proc/stat', text);
  return found;
}

export function parseMemory(text: string): MachineCounters['memory'] {
  const read = (name: string): number =>
    numberIn(new RegExp(`^${name}: +(\\d{1,15}) kB$`, 'm').exec(text)?.[1], '/proc/meminfo', text);
  const [total, available] = [read('MemTotal'), read('MemAvailable')];
  return { totalMiB: total / 1024, usedMiB: Math.max(0, total - available) / 1024 };
}

/** Whole disks: their partitions, and what is mapped onto them, would count the same bytes again. */
const diskPattern = /^(?:sd[a-z]+|vd[a-z]+|xvd[a-z]+|nvme\d+n\d+|mmcblk\d+)$/;
const sectorBytes = 512;

/** iostats.rst: major, minor, name, reads, merged, sectors read, time, writes, merged, sectors written, and more. */
export function parseDisks(text: string): Pick<MachineCounters, 'readBytes' | 'writtenBytes'> {
  let [readBytes, writtenBytes] = [0, 0];
  for (const line of text.split('\n')) {
    const fields = line.trim().split(/ +/);
    if (!diskPattern.test(fields[2] ?? '')) continue;
    readBytes += numberIn(fields[5], '/proc/diskstats', line) * sectorBytes;
    writtenBytes += numberIn(fields[9], '/proc/diskstats', line) * sectorBytes;
  }
  return { readBytes, writtenBytes };
}

/** The loopback, guests' taps, and the bridges and tunnels of owners' networks, whose packets a physical interface counts. */
const notCounted = /^(?:lo|bt[0-9a-f]{12}|(?:bg|vx)[0-9a-f]{1,6})$/;

export function parseDevices(text: string): Pick<MachineCounters, 'receivedBytes' | 'sentBytes'> {
  let [receivedBytes, sentBytes] = [0, 0];
  for (const line of text.split('\n').slice(2)) {
    const [, name, list] = /^ *([^\s:]+): *([\d ]+)$/.exec(line) ?? [];
    if (name === undefined || notCounted.test(name)) continue;
    const fields = list!.trim().split(/ +/);
    receivedBytes += numberIn(fields[0], '/proc/net/dev', line);
    sentBytes += numberIn(fields[8], '/proc/net/dev', line);
  }
  return { receivedBytes, sentBytes };
}

function numberIn(text: string | undefined, file: string, line: string): number {
  if (text === undefined || !/^\d{1,20}$/.test(text)) throw unknown(file, line);
  return Number(text);
}

const unknown = (file: string, line: string): Error =>
  new Error(`${file} has ${JSON.stringify(line.slice(0, 200))}, which is unknown`);
