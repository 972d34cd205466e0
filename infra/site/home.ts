import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, realpathSync, renameSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';

/** Folders of a site's home. */
export interface Home {
  path: string;
  /** Six hexadecimal digits that distinguish this site's bridge and rules from another's on the same machine. */
  tag: string;
  logs: string;
  postgres: string;
  temporal: string;
  repository: string;
  keys: string;
  /** State of a single run: the hosts' configuration files and pids. */
  run: string;
  /** One folder a host: the host's disk. */
  hosts: string;
}

/** What a site records between runs, so that its addresses remain the same where possible. */
export interface SiteRecord {
  /** The run that wrote this; shown when a second run tries to start. */
  supervisorPid: number;
  /** First three octets of the hosts' network, e.g. `10.90.17`. */
  subnet: string | null;
  ports: Record<string, number>;
}

export function openHome(given: string): Home {
  mkdirSync(given, { recursive: true });
  const path = realpathSync(given);
  const tag = createHash('sha256').update(path).digest('hex').slice(0, 6);
  const folder = (name: string, mode: number): string => {
    mkdirSync(join(path, name), { recursive: true, mode });
    return join(path, name);
  };
  return {
    path,
    tag,
    logs: folder('logs', 0o750),
    // initdb makes it completely or not at all.
    postgres: join(path, 'postgres'),
    temporal: folder('temporal', 0o700),
    repository: folder('repository', 0o700),
    keys: folder('keys', 0o700),
    run: folder('run', 0o750),
    hosts: folder('hosts', 0o711),
  };
}

export function readRecord(home: Home): SiteRecord {
  const fresh: SiteRecord = { supervisorPid: 0, subnet: null, ports: {} };
  try {
    return { ...fresh, ...(JSON.parse(readFileSync(join(home.path, 'site.json'), 'utf8')) as Partial<SiteRecord>) };
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return fresh;
    throw new Error(`${home.path}/site.json can't be read; remove it if the site's addresses may change`, { cause: error });
  }
}

export function writeRecord(home: Home, record: SiteRecord): void {
  replaceFile(join(home.path, 'site.json'), `${JSON.stringify(record, null, 2)}\n`, 0o644);
}

/** Replaces a file atomically: readers see the old text or the new one, never a part. */
export function replaceFile(path: string, text: string, mode: number): void {
  writeFileSync(`${path}.tmp`, text, { mode, flush: true });
  renameSync(`${path}.tmp`, path);
}

/**
 * Locks this home: an abstract socket named after it, which the kernel frees with the process, however the process ends.
 * Throws with the pid of the run that holds the lock.
 */
export async function lockHome(home: Home): Promise<Server> {
  const socket = createServer((visitor) => visitor.destroy());
  await new Promise<void>((resolve, reject) => {
    socket.once('error', (error: NodeJS.ErrnoException) => {
      const inUse = error.code === 'EADDRINUSE';
      reject(
        inUse
          ? new Error(`${home.path} is in use by process ${readRecord(home).supervisorPid}; stop that one, or set BERTH_HOME`)
          : error,
      );
    });
    socket.listen(`\0berth-site-${createHash('sha256').update(home.path).digest('hex')}`, resolve);
  });
  socket.unref();
  return socket;
}
