import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../drivers/host/run-process.ts';
import { siteMarker } from '../site/processes.ts';

/** The environment variable of every process that a test run starts; its value is the run's temporary folder. */
export const runMarker = 'BERTH_TEST_RUN';

const deadlineMs = 10_000;

/** What a test run could leave on this machine, each as a readable line. */
export type Traces = ReadonlySet<string>;

/** null where the process has ended, or its files aren't readable. */
async function readProc(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'latin1');
  } catch (error) {
    if (error instanceof Error && 'code' in error && ['ENOENT', 'ESRCH', 'EACCES'].includes(String(error.code))) return null;
    throw error;
  }
}

interface Process {
  pid: number;
  command: string;
  env: ReadonlyMap<string, string>;
}

async function readProcess(pid: number): Promise<Process | null> {
  const [environ, cmdline] = await Promise.all([readProc(`/proc/${pid}/environ`), readProc(`/proc/${pid}/cmdline`)]);
  // A kernel thread, or a zombie, has neither.
  if (environ === null || !cmdline) return null;
  const env = environ.split('\0').map((entry): [string, string] => {
    const at = entry.indexOf('=');
    return [entry.slice(0, at), entry.slice(at + 1)];
  });
  return { pid, command: cmdline.replaceAll('\0', ' ').trim(), env: new Map(env) };
}

async function readProcesses(): Promise<Process[]> {
  const pids = (await readdir('/proc')).filter((name) => /^[0-9]+$/.test(name)).map(Number);
  const found = await Promise.all(pids.filter((pid) => pid !== process.pid).map(readProcess));
  return found.filter((one) => one !== null);
}

/** A process belongs to the run by its marker, or because it belongs to a site in the run's temporary folder. */
const isOfRun = ({ env }: Process, folder: string): boolean =>
  env.get(runMarker) === folder || (env.get(siteMarker) ?? '').startsWith(`${folder}/`);

/** The live processes of a test run. */
export async function processesOfRun(folder: string): Promise<Process[]> {
  return (await readProcesses()).filter((one) => isOfRun(one, folder));
}

/** The tag from which infra/site/home.ts derives the names of a site's bridge and rules. */
const tagOf = (home: string): string => createHash('sha256').update(home).digest('hex').slice(0, 6);

/** Whether a trace belongs to something outside this test run: it has the tag of another site, or another process names it. */
async function ownedElsewhere(folder: string): Promise<(trace: string) => boolean> {
  const others = (await readProcesses()).filter((one) => !isOfRun(one, folder));
  const homes = others.map(({ env }) => env.get(siteMarker)).filter((home) => home !== undefined);
  const tags = [...new Set(homes)].map(tagOf);
  const words = [...homes, ...others.map(({ command }) => command)];
  return (trace) => {
    if (tags.some((tag) => trace.includes(tag))) return true;
    // Another site may have enabled forwarding meanwhile.
    if (trace.startsWith('net.')) return tags.length > 0;
    return trace.startsWith('file ') && words.some((word) => word.includes(trace.slice('file '.length)));
  };
}

async function interfaces(): Promise<string[]> {
  const links = JSON.parse(await run(['ip', '-json', 'link', 'show'], { deadlineMs })) as { ifname: string }[];
  return links.map(({ ifname }) => `network interface ${ifname}`);
}

async function namespaces(): Promise<string[]> {
  const names = await run(['ip', 'netns', 'list'], { deadlineMs });
  return names
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => `network namespace ${line}`);
}

async function rules(): Promise<string[]> {
  if (process.getuid?.() !== 0) return [];
  const saved = await run(['iptables-save'], { deadlineMs });
  return rulesIn(saved).map((rule) => `firewall rule ${rule}`);
}

/** Rules, chains and policies of iptables-save, except built-in chains that accept: a table's first use creates those. */
export function rulesIn(saved: string): string[] {
  return saved
    .split('\n')
    .map((line) => line.replace(/ \[[0-9:]*\]$/, ''))
    .filter((line) => /^(:|-A)/.test(line) && !/^:[A-Z]+ ACCEPT$/.test(line));
}

async function mounts(): Promise<string[]> {
  const table = await readFile('/proc/self/mountinfo', 'utf8');
  // Columns: id, parent, device, root, mount point, …
  return table
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => `mount ${line.split(' ')[4]}`);
}

/** Berth's files in the temporary folders; the folders of other test runs belong to those runs. */
async function temporaryFiles(): Promise<string[]> {
  const found = await Promise.all(
    ['/tmp', '/var/tmp', '/dev/shm'].map(async (folder) => {
      const names = (await readdir(folder)).filter((name) => name.startsWith('berth') && !name.startsWith('berth-test-run-'));
      return names.map((name) => `file ${join(folder, name)}`);
    }),
  );
  return found.flat();
}

async function settings(): Promise<string[]> {
  return [`net.ipv4.ip_forward = ${(await readFile('/proc/sys/net/ipv4/ip_forward', 'utf8')).trim()}`];
}

/** Reads all current traces. */
export async function readTraces(): Promise<Traces> {
  const all = await Promise.all([interfaces(), namespaces(), rules(), mounts(), temporaryFiles(), settings()]);
  return new Set(all.flat());
}

/** Traces that are new and belong to nothing else on this machine; then the run's processes and files. */
export async function findLeaks(before: Traces, folder: string): Promise<string[]> {
  const isForeign = await ownedElsewhere(folder);
  const added = [...(await readTraces())].filter((trace) => !before.has(trace) && !isForeign(trace));
  const left = (await processesOfRun(folder)).map(({ pid, command }) => `process ${pid} ${command.slice(0, 120)}`);
  const files = (await readdir(folder)).map((name) => `file ${join(folder, name)}`);
  return [...added, ...left, ...files];
}
