import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';

/** As WatchdogSec of a systemd unit. */
export interface WatchdogSpec {
  /** The path of the socket. */
  socket: string;
  /** Its path where the process runs, which is told as NOTIFY_SOCKET: a host has its own mounts. */
  seenAs?: string;
  /** A process that has not been heard of for this long is killed. */
  limitMs: number;
}

export interface Watchdog {
  /** What systemd gives a service with a watchdog. */
  env: Record<string, string>;
  /** Counts from now on, and calls `expired` once the process is silent for too long; returns what ends this. */
  begin(expired: () => void): () => void;
  close(): void;
}

/** The longest path of a socket in Linux's sockaddr_un, less its final zero. */
const longestSocketPath = 107;
/** How often a limit's time is looked at. */
const looksPerLimit = 8;

/** Receives what a process sends its service manager, as systemd does. Datagrams, which Node can't receive: by socat(1). */
export function openWatchdog({ socket, seenAs = socket, limitMs }: WatchdogSpec): Watchdog {
  if (Buffer.byteLength(socket) > longestSocketPath)
    throw new Error(`${socket} is too long for a socket, at most ${longestSocketPath} bytes; choose a shorter BERTH_HOME`);
  rmSync(socket, { force: true });
  let heardMs = Date.now();
  const argv = ['--pdeathsig', 'KILL', '--', 'socat', '-u', `UNIX-RECV:${socket}`, 'STDOUT'];
  const receiver = spawn('setpriv', argv, { stdio: ['ignore', 'pipe', 'ignore'], detached: true });
  receiver.stdout.on('data', (chunk: Buffer) => {
    if (chunk.includes('WATCHDOG=1')) heardMs = Date.now();
  });
  // Without a receiver nothing is heard, and nothing may be concluded from it.
  let receives = true;
  for (const event of ['error', 'exit']) receiver.on(event, () => (receives = false));
  return {
    env: { NOTIFY_SOCKET: seenAs, WATCHDOG_USEC: String(limitMs * 1000) },
    begin(expired) {
      heardMs = Date.now();
      let lookedMs = heardMs;
      const intervalMs = limitMs / looksPerLimit;
      const timer = setInterval(() => {
        const nowMs = Date.now();
        // This process itself stood still: what was sent meanwhile has not been read yet.
        if (nowMs - lookedMs > 2 * intervalMs) heardMs = nowMs;
        lookedMs = nowMs;
        if (!receives || nowMs - heardMs <= limitMs) return;
        clearInterval(timer);
        expired();
      }, intervalMs);
      return () => clearInterval(timer);
    },
    close() {
      receiver.kill('SIGKILL');
      rmSync(socket, { force: true });
    },
  };
}
