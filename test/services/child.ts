import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { killProcessGroup } from '../../drivers/host/run-process.ts';

/** A server that lives as long as the test run that started it. */
export interface Service {
  /** Rejects, with the server's last output, when it ends without a request to stop. */
  readonly failed: Promise<never>;
  /** Stops it in order; after ten seconds by force. */
  stop(): Promise<void>;
  /** Ends it as a crash does. */
  kill(): void;
}

const stopMs = 10_000;
const lastWordsBytes = 4096;

/**
 * Starts a server that dies with this process, however this process ends (PDEATHSIG): a killed test run leaves none.
 * @param launcher the command before setpriv(1): entering a user namespace clears the signal that setpriv requests
 */
export function startService(
  argv: readonly [string, ...string[]],
  stopSignal: NodeJS.Signals,
  launcher: readonly string[] = [],
): Service {
  const [program, ...args] = [...launcher, 'setpriv', '--pdeathsig', 'KILL', '--', ...argv] as [string, ...string[]];
  const child = spawn(program, args, {
    // A session of its own: Ctrl-C at the terminal is for the test run, which then stops the server in order.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let lastWords = '';
  const keep = (chunk: Buffer): void => {
    lastWords = (lastWords + chunk.toString()).slice(-lastWordsBytes);
  };
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  const failed = new Promise<never>((_, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => reject(new Error(`${argv[0]} ended (${signal ?? code}): ${lastWords.trim()}`)));
  });
  // Only a caller that waits for the server to be ready handles this rejection.
  failed.catch(() => undefined);
  return { failed, stop: () => stop(child, stopSignal), kill: () => void child.kill('SIGKILL') };
}

async function stop(child: ChildProcess, stopSignal: NodeJS.Signals): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  child.kill(stopSignal);
  const timer = setTimeout(() => killProcessGroup(child), stopMs);
  await closed;
  clearTimeout(timer);
}

/**
 * Probes the service, each attempt with a deadline of its own, until one resolves. Rejects when the service ended, or after
 * the deadline with the last reason.
 */
export async function untilReady(
  service: Service,
  what: string,
  ask: () => Promise<unknown>,
  deadlineMs = 30_000,
): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    try {
      // Not in a race with its end: an abandoned attempt would reject later, with no handler.
      await ask();
      return;
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`${what} is not ready after ${deadlineMs} ms`, { cause: error });
      await Promise.race([delay(25), service.failed]);
    }
  }
}

/**
 * A TCP port of 127.0.0.1 that was free a moment ago. Another process may take it meanwhile: the server then reports it.
 */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('BUG: a TCP server without a port');
  return address.port;
}
