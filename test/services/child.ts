import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { killProcessGroup } from '../../drivers/host/run-process.ts';

/** A server that lives as long as the test run that started it. */
export interface Service {
  /** Rejects, with the server's last words, when it ends without having been asked to. */
  readonly failed: Promise<never>;
  /** Ends it in order; after ten seconds by force. */
  stop(): Promise<void>;
}

const stopMs = 10_000;
const lastWordsBytes = 4096;

/**
 * Starts a server that dies with this process, however this process ends (PDEATHSIG): a killed test run leaves none.
 * @param launcher what precedes setpriv(1): entering a user namespace forgets what that asks for
 */
export function startService(
  argv: readonly [string, ...string[]],
  stopSignal: NodeJS.Signals,
  launcher: readonly string[] = [],
): Service {
  const [program, ...args] = [...launcher, 'setpriv', '--pdeathsig', 'KILL', '--', ...argv] as [string, ...string[]];
  const child = spawn(program, args, {
    // A session of its own: Ctrl-C at the terminal is for the test run, which then stops it in order.
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
  // Only whoever waits for the server to be ready wants to hear of it.
  failed.catch(() => undefined);
  return { failed, stop: () => stop(child, stopSignal) };
}

async function stop(child: ChildProcess, stopSignal: NodeJS.Signals): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  child.kill(stopSignal);
  const timer = setTimeout(() => killProcessGroup(child), stopMs);
  await closed;
  clearTimeout(timer);
}

/** Asks, each question with an end of its own, until it answers without throwing. Rejects when the service ended, or after the deadline with the last reason. */
export async function untilReady(
  service: Service,
  what: string,
  ask: () => Promise<unknown>,
  deadlineMs = 30_000,
): Promise<void> {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    try {
      // Not in a race with its end: a question that is left behind would fail later, with nobody to hear it.
      await ask();
      return;
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`${what} is not ready after ${deadlineMs} ms`, { cause: error });
      await Promise.race([delay(25), service.failed]);
    }
  }
}

/** A TCP port of 127.0.0.1 that was free a moment ago. Another process may take it meanwhile: the server then says so. */
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
