import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, renameSync, statSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { childrenOf, isAlive, signal } from './processes.ts';
import { until } from './until.ts';
import { openWatchdog, type WatchdogSpec } from './watchdog.ts';

/** One long-lived process of the site. */
export interface ChildSpec {
  /** The name for tests and operators, e.g. `api` or `host1/libvirtd`. */
  name: string;
  argv: readonly string[];
  env: Record<string, string>;
  cwd?: string;
  logFile: string;
  /** Whether it serves now. Polled after each start. */
  isReady: (pid: number) => boolean | Promise<boolean>;
  readyDeadlineMs?: number;
  /** The signal that requests an orderly end, and how long that may take before SIGKILL. */
  stopSignal?: NodeJS.Signals;
  stopMs?: number;
  /** The started program is only a launcher (nsenter): the process itself is its only child. */
  viaLauncher?: boolean;
  /** It says now and then that it is alive; when it doesn't, it is killed, and started again. */
  watchdog?: WatchdogSpec;
  /** Called when it died without a request. */
  onDeath?: () => void;
  /** Called when it died and serves again. */
  onRestart?: () => void;
}

export interface Child {
  readonly name: string;
  /** Resolves once it serves for the first time; rejects when it can't. */
  readonly ready: Promise<void>;
  /** The process itself, in the machine's PID namespace; null between two lives. */
  pid(): number | null;
  /** How often it was restarted. */
  restarts(): number;
  /** Sends a signal, e.g. SIGKILL, after which it is restarted. */
  kill(name: NodeJS.Signals): void;
  /** Resolves when it serves again after more than the given number of restarts. */
  untilReadyAgain(afterRestarts: number, deadlineMs: number): Promise<void>;
  stop(): Promise<void>;
}

const firstBackoffMs = 100;
const longestBackoffMs = 5000;
/** A process that lived this long is healthy: its next death resets the backoff. */
const healthyMs = 10_000;
const rotateBytes = 16 * 2 ** 20;

/**
 * Starts a process and supervises it: when it dies it is restarted, after a backoff that doubles up to 5 s. It has a
 * session of its own, so that Ctrl-C at the terminal reaches the supervisor alone, and it dies with the supervisor
 * (PDEATHSIG).
 */
export function supervise(spec: ChildSpec, note: (text: string) => void): Child {
  let current: ChildProcess | null = null;
  let innerPid: number | null = null;
  let serving = -1;
  let restarts = 0;
  let stopping = false;
  let skipBackoff: () => void = () => undefined;
  const watchdog = spec.watchdog === undefined ? null : openWatchdog(spec.watchdog);
  const ready = Promise.withResolvers<void>();
  // Avoids an unhandled rejection when a site is stopped before a caller awaits `ready`; later callers still receive it.
  ready.promise.catch(() => undefined);

  const pid = (): number | null => {
    if (current?.pid === undefined || current.exitCode !== null || current.signalCode !== null) return null;
    if (!spec.viaLauncher) return current.pid;
    // Cached for each life: the search reads all of /proc.
    innerPid ??= childrenOf(current.pid)[0] ?? null;
    return innerPid;
  };

  async function live(): Promise<void> {
    let backoffMs = firstBackoffMs;
    let previousEnd: string | null = null;
    for (;;) {
      const startedMs = Date.now();
      let starved = false;
      // A host worker counts what its predecessor did when it crashed.
      const previous = previousEnd === null ? {} : { BERTH_PREVIOUS_END: previousEnd };
      const { child, ended } = launch(spec, { ...spec.env, ...watchdog?.env, ...previous });
      current = child;
      innerPid = null;
      const unwatch = watchdog?.begin(() => {
        note(`${spec.name} has not fed its watchdog for ${spec.watchdog!.limitMs / 1000} s; it is killed`);
        starved = true;
        endGroup(child, pid());
      });
      void ended.then(unwatch);
      const served = await Promise.race([waitForReadiness(spec, pid).then(() => true), ended.then(() => false)]).catch(
        (error: unknown) => error,
      );
      if (served === true) {
        serving = restarts;
        if (restarts === 0) ready.resolve();
        else {
          note(`${spec.name} serves again after ${((Date.now() - startedMs) / 1000).toFixed(1)} s`);
          spec.onRestart?.();
        }
      } else if (served !== false) note(`${spec.name} doesn't serve: ${String(served)}`);
      if (restarts === 0 && served !== true && !stopping) {
        stopping = true;
        endGroup(child, pid());
        ready.reject(
          new Error(`${spec.name} did not start; the end of ${spec.logFile}:\n${lastLines(spec.logFile)}`, { cause: served }),
        );
        return;
      }
      if (served !== true && served !== false) endGroup(child, pid());
      const how = await ended;
      previousEnd = starved ? 'watchdog' : how;
      if (stopping) return;
      spec.onDeath?.();
      if (Date.now() - startedMs > healthyMs) backoffMs = firstBackoffMs;
      note(`${spec.name} ended (${how}); it is started again in ${backoffMs} ms`);
      const pause = Promise.withResolvers<void>();
      skipBackoff = pause.resolve;
      const timer = setTimeout(pause.resolve, backoffMs);
      await pause.promise;
      clearTimeout(timer);
      if (stopping) return;
      backoffMs = Math.min(backoffMs * 2, longestBackoffMs);
      restarts += 1;
    }
  }
  const life = live().finally(() => watchdog?.close());

  return {
    name: spec.name,
    ready: ready.promise,
    pid,
    restarts: () => restarts,
    kill(name) {
      const target = pid();
      if (target !== null) signal(target, name);
    },
    async untilReadyAgain(afterRestarts, deadlineMs) {
      await until(`${spec.name} to serve again`, deadlineMs, () => restarts > afterRestarts && serving === restarts);
    },
    async stop() {
      stopping = true;
      ready.reject(new Error(`${spec.name} was stopped`));
      skipBackoff();
      const target = pid();
      if (target !== null) signal(target, spec.stopSignal ?? 'SIGTERM');
      const killer = new AbortController();
      const deadline = delay(spec.stopMs ?? 5000, undefined, { signal: killer.signal })
        .then(() => {
          if (current !== null) endGroup(current, pid());
        })
        .catch((error: unknown) => {
          if (!killer.signal.aborted) throw error;
        });
      await life;
      killer.abort();
      await deadline;
    },
  };
}

/** Starts it with its output appended to its log. @returns the process, and a promise of how it ended */
function launch(spec: ChildSpec, env: Record<string, string>): { child: ChildProcess; ended: Promise<string> } {
  const log = openLogFile(spec.logFile);
  try {
    writeSync(log, `--- ${new Date().toISOString()} ${spec.argv.join(' ')}\n`);
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...spec.argv], {
      stdio: ['ignore', log, log],
      env,
      detached: true,
      ...(spec.cwd === undefined ? {} : { cwd: spec.cwd }),
    });
    const ended = new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(error.message));
      child.once('exit', (code, name) => resolve(name ?? `exit ${code}`));
    });
    return { child, ended };
  } finally {
    closeSync(log);
  }
}

function openLogFile(path: string): number {
  mkdirSync(dirname(path), { recursive: true });
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size > rotateBytes) renameSync(path, `${path}.1`);
  return openSync(path, 'a', 0o640);
}

async function waitForReadiness(spec: ChildSpec, pid: () => number | null): Promise<void> {
  await until(`${spec.name} to serve`, spec.readyDeadlineMs ?? 30_000, async () => {
    const found = pid();
    return found !== null && isAlive(found) && (await spec.isReady(found));
  });
}

function endGroup(child: ChildProcess, inner: number | null): void {
  if (inner !== null) signal(inner, 'SIGKILL');
  if (child.pid !== undefined) signal(-child.pid, 'SIGKILL');
}

function lastLines(path: string): string {
  return readFileSync(path, 'utf8').split('\n').slice(-15).join('\n');
}
