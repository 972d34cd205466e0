import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { systemClock } from '../host/clock.ts';
import { killProcessGroup } from '../host/run-process.ts';

/** A restart of libvirtd takes half a second. */
const reopenMs = 1000;

/**
 * Follows the lifecycle events of all domains through one `virsh event`. It ends with its connection, and is started again:
 * the listener observes all domains then. Events of the moment before virsh has subscribed are lost, so a listener polls as
 * well.
 */
export async function watchDomainEvents(
  uri: string,
  onChange: (name: string | null) => void,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await followOnce(uri, onChange, signal);
    onChange(null);
    await systemClock.sleep(reopenMs, signal).catch(() => undefined);
  }
}

function followOnce(uri: string, onChange: (name: string) => void, signal: AbortSignal): Promise<void> {
  const argv = ['-oL', 'virsh', '-q', '-c', uri, 'event', '--event', 'lifecycle', '--loop'];
  const env = { PATH: process.env.PATH ?? '', LC_ALL: 'C.UTF-8' };
  const child = spawn('stdbuf', argv, { stdio: ['ignore', 'pipe', 'ignore'], detached: true, env });
  const onAbort = (): void => killProcessGroup(child);
  signal.addEventListener('abort', onAbort, { once: true });
  createInterface({ input: child.stdout }).on('line', (line) => {
    const name = domainOfEvent(line);
    if (name !== null) onChange(name);
  });
  return new Promise((resolve) => {
    const ended = (): void => {
      signal.removeEventListener('abort', onAbort);
      resolve();
    };
    child.once('error', ended);
    child.once('close', ended);
  });
}

/** virsh prints `event 'lifecycle' for domain 'vm_…': Stopped Shutdown`. null: another line. */
export function domainOfEvent(line: string): string | null {
  return /event 'lifecycle' for domain '?([^':\s]+)'?: /.exec(line)?.[1] ?? null;
}
