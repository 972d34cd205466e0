import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';

/** The environment variable that marks every process of a site; its value is the real path of the site's home. */
export const siteMarker = 'BERTH_SITE';

/** null where the process has ended or never existed: callers treat both as absent. */
function readProc(path: string): string | null {
  try {
    return readFileSync(path, 'latin1');
  } catch (error) {
    return absent(error);
  }
}

function absent(error: unknown): null {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (['ENOENT', 'ESRCH', 'EACCES', 'EINVAL'].includes(code)) return null;
  throw error;
}

function everyPid(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .map(Number);
}

/** State letter and parent of a process, from /proc/PID/stat (proc(5)): the name in it may contain anything, even ")". */
function stat(pid: number): { state: string; parent: number } | null {
  const text = readProc(`/proc/${pid}/stat`);
  if (text === null) return null;
  const [state, parent] = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { state: state ?? '', parent: Number(parent) };
}

/** A zombie counts as ended: it holds no resources. */
export function isAlive(pid: number): boolean {
  const found = stat(pid);
  return found !== null && found.state !== 'Z' && found.state !== 'X';
}

/** Direct children. /proc/PID/task/TID/children would be faster, but not every kernel has it. */
export function childrenOf(pid: number): number[] {
  return everyPid().filter((other) => stat(other)?.parent === pid);
}

/** Processes whose environment has the site's marker, except this one. */
export function processesOfSite(home: string): number[] {
  const mark = `\0${siteMarker}=${home}\0`;
  return everyPid().filter(
    (pid) => pid !== process.pid && isAlive(pid) && `\0${readProc(`/proc/${pid}/environ`) ?? ''}`.includes(mark),
  );
}

/**
 * Whether something listens on a TCP port in the network namespace of a process. Meant for namespaces other than this
 * process's own: the kernel walks all of the machine's connections for it, which takes milliseconds.
 */
export async function isListening(pid: number, port: number): Promise<boolean> {
  const hexPort = port.toString(16).toUpperCase().padStart(4, '0');
  // Columns of /proc/PID/net/tcp: slot, local address:port, remote address:port, state (0A: LISTEN).
  const row = new RegExp(`^\\s*\\d+: [0-9A-F]+:${hexPort} [0-9A-F]+:0000 0A `, 'm');
  for (const table of ['tcp', 'tcp6']) {
    const text = await readFile(`/proc/${pid}/net/${table}`, 'latin1').catch(absent);
    if (row.test(text ?? '')) return true;
  }
  return false;
}

/** Whether a server accepts connections on a TCP port of 127.0.0.1. */
export function takesConnections(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

/** Sends a signal; a process that has already ended is no error. Returns whether it existed. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    process.kill(pid, name);
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ESRCH') return false;
    throw error;
  }
}
