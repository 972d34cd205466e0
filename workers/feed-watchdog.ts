import { type ChildProcess, spawn } from 'node:child_process';
import type { Logger } from '../model/log.ts';

/** How often within the time that the service manager allows: one lost beat is not yet the end. */
const beatsPerLimit = 3;
const beat = 'WATCHDOG=1\n';

/**
 * Tells the service manager that this process's event loop turns, as sd_notify(3) with WATCHDOG=1 does: a process that
 * computes without end is killed and started again (systemd.service(5), WatchdogSec). Does nothing without NOTIFY_SOCKET and
 * WATCHDOG_USEC in the environment. Node has no datagram sockets of this kind, so a socat(1) that lives as long as this
 * process sends each beat, and the unit needs NotifyAccess=all. Not systemd-notify(1): systemd may lose the message of a
 * process that has ended before it is read, unless that waits for an answer.
 */
export function feedWatchdog(log: Logger, env: NodeJS.ProcessEnv = process.env): void {
  const limitMs = Number(env.WATCHDOG_USEC) / 1000;
  const socket = env.NOTIFY_SOCKET;
  if (socket === undefined || !(limitMs > 0)) return;
  let sender: ChildProcess | null = null;
  const send = (): void => {
    sender ??= startSender(socket, (why) => {
      sender = null;
      log.warn({ why }, 'what feeds the watchdog of the service manager has ended; the next beat starts it again');
    });
    sender.stdin?.write(beat);
  };
  send();
  setInterval(send, limitMs / beatsPerLimit).unref();
}

/** @param ended called once */
function startSender(socket: string, ended: (why: string) => void): ChildProcess {
  const to = socket.startsWith('@') ? `ABSTRACT-SENDTO:${socket.slice(1)}` : `UNIX-SENDTO:${socket}`;
  // It ends with its input, so with this process, however this ends.
  const child = spawn('socat', ['-u', 'STDIN', to], { stdio: ['pipe', 'ignore', 'ignore'] });
  child.once('error', (error) => ended(error.message));
  child.once('exit', (code, signal) => ended(signal ?? `exit ${code}`));
  // The next beat finds it ended.
  child.stdin.on('error', () => undefined);
  child.unref();
  return child;
}
