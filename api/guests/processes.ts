import { BerthError } from '../../model/errors.ts';

/** A guest's own view of its processes, as two readings of its /proc say it. What a guest says is its owner's, and may be anything. */

/** More than a guest of any size runs, and more than its answer may have. */
export const processLimits = { processes: 8192, answerBytes: 2 * 2 ** 20, nameChars: 64 } as const;

const mark = '==';

/** Prints two readings of /proc, so many seconds apart. Processes that end meanwhile are no error. */
export const processesCommand = (seconds: number): string[] => [
  'sh',
  '-c',
  [
    'read_all() { cat /proc/uptime; cat /proc/[0-9]*/stat 2>/dev/null; }',
    'cat /proc/loadavg; grep -E "^(MemTotal|MemAvailable):" /proc/meminfo',
    `echo ${mark}; read_all; echo ${mark}; sleep "$1"; read_all; exit 0`,
  ].join('\n'),
  'processes',
  String(seconds),
];

interface GuestProcess {
  pid: number;
  name: string;
  /** The kernel's letter: R runs, S sleeps, D waits for a disk, Z has ended, … */
  state: string;
  /** Processors' time a second, between the two readings. */
  cpus: number;
  /** Since it was started. */
  cpuS: number;
  memoryMiB: number;
  threads: number;
}

export interface GuestView {
  /** Over 1, 5 and 15 minutes. */
  loadAverages: [number, number, number];
  uptimeS: number;
  memory: { totalMiB: number; availableMiB: number } | null;
  /** The busiest first. */
  processes: GuestProcess[];
}

/** Ticks a second in /proc, and a page, on every processor that Berth's guests have. */
const ticksPerS = 100;
const pageMiB = 4096 / 2 ** 20;

/** @param output of processesCommand. Throws guest-invalid for what is none */
export function parseProcesses(output: string): GuestView {
  const [head, first, last, ...rest] = output.split(`${mark}\n`);
  if (head === undefined || first === undefined || last === undefined || rest.length > 0) throw unknown('not two readings');
  const averages = /^(\d{1,6}\.\d\d) (\d{1,6}\.\d\d) (\d{1,6}\.\d\d) /.exec(head);
  if (averages === null) throw unknown('no load averages');
  const [before, after] = [readingOf(first), readingOf(last)];
  const seconds = after.uptimeS - before.uptimeS;
  const processes = [...after.processes.values()].map(({ ticks, ...process }): GuestProcess => {
    const earlier = before.processes.get(process.pid)?.ticks ?? ticks;
    const cpus = seconds > 0 ? Math.max(0, ticks - earlier) / ticksPerS / seconds : 0;
    return { ...process, cpus: Math.round(cpus * 1000) / 1000, cpuS: ticks / ticksPerS };
  });
  return {
    loadAverages: averages.slice(1, 4).map(Number) as [number, number, number],
    uptimeS: after.uptimeS,
    memory: memoryOf(head),
    processes: processes.sort((a, b) => b.cpus - a.cpus || b.cpuS - a.cpuS || a.pid - b.pid),
  };
}

interface Reading {
  uptimeS: number;
  processes: Map<number, Omit<GuestProcess, 'cpus' | 'cpuS'> & { ticks: number }>;
}

function readingOf(text: string): Reading {
  const uptime = /^(\d{1,12}\.\d\d) /.exec(text)?.[1];
  if (uptime === undefined) throw unknown('no uptime');
  const processes: Reading['processes'] = new Map();
  // A name may have any character in it, a newline too: each process begins with its number and ends its name before its state.
  for (const match of text.matchAll(/^(\d{1,8}) \(([^\n]{0,64})\) ([A-Za-z]) (-?\d[-\d ]{30,2000})$/gm)) {
    const [, pid, name, state, list] = match;
    // proc_pid_stat(5): from the parent, which is field 4.
    const fields = list!.split(' ').map(Number);
    const [utime, stime, threads, pages] = [fields[10], fields[11], fields[16], fields[20]];
    if (![utime, stime, threads, pages].every((value) => Number.isSafeInteger(value) && value! >= 0)) continue;
    processes.set(Number(pid), {
      pid: Number(pid),
      name: printable(name!),
      state: state!,
      ticks: utime! + stime!,
      memoryMiB: Math.round(pages! * pageMiB * 10) / 10,
      threads: threads!,
    });
    if (processes.size >= processLimits.processes) break;
  }
  if (processes.size === 0) throw unknown('no process');
  return { uptimeS: Number(uptime), processes };
}

/** As it may be shown on a terminal. */
function printable(name: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: replacing them is the point
  return name.slice(0, processLimits.nameChars).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, '?');
}

function memoryOf(head: string): GuestView['memory'] {
  const of = (name: string): number => Number(new RegExp(`^${name}: +(\\d{1,12}) kB$`, 'm').exec(head)?.[1]) / 1024;
  const [totalMiB, availableMiB] = [of('MemTotal'), of('MemAvailable')];
  if (!Number.isFinite(totalMiB) || !Number.isFinite(availableMiB)) return null;
  return { totalMiB: Math.round(totalMiB), availableMiB: Math.round(availableMiB) };
}

const unknown = (what: string): BerthError =>
  new BerthError('guest-invalid', `The guest's own view of its processes can't be read: ${what} in its answer`);
