import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { run } from '../../../drivers/host/run-process.ts';
import type { Methods } from './machine.ts';

/** A network namespace of its own, which ends with its process; see machine.ts. */
export interface Machine {
  pid: number;
  call<M extends keyof Methods>(method: M, ...args: Parameters<Methods[M]>): Promise<Awaited<ReturnType<Methods[M]>>>;
  /** Runs a program on it. */
  on(argv: [string, ...string[]], input?: string): Promise<string>;
  /** Runs these `ip` commands on it. */
  ip(...lines: string[]): Promise<void>;
  end(): Promise<void>;
}

const deadlineMs = 20_000;

export async function startMachine(): Promise<Machine> {
  const script = new URL('./machine.ts', import.meta.url).pathname;
  // A sysfs mount shows the devices of the namespace in which it was mounted.
  const start = 'mount -t sysfs sysfs /sys && exec "$@"';
  const child = spawn('unshare', ['--net', '--mount', 'sh', '-c', start, 'sh', process.execPath, script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  }) as unknown as ChildProcessWithoutNullStreams;
  const pid = child.pid!;
  const waiting = new Map<number, { resolve: (result: never) => void; reject: (error: Error) => void }>();
  const ready = new Promise((resolve, reject) => waiting.set(0, { resolve, reject }));
  createInterface({ input: child.stdout }).on('line', (line) => {
    const { id, result, error } = JSON.parse(line) as { id: number; result?: never; error?: string };
    const call = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) call?.resolve(result as never);
    else call?.reject(new Error(error));
  });
  child.once('close', () => {
    for (const { reject } of waiting.values()) reject(new Error('the machine ended'));
  });
  await ready;
  let sent = 0;
  const on: Machine['on'] = (argv, input) =>
    run(['nsenter', `--target=${pid}`, '--net', ...argv], { deadlineMs, ...(input === undefined ? {} : { input }) });
  const ip: Machine['ip'] = async (...lines) => {
    await on(['ip', '-batch', '-'], `${lines.join('\n')}\n`);
  };
  await ip('link set lo up');
  return {
    pid,
    on,
    ip,
    call(method, ...args) {
      sent += 1;
      const id = sent;
      child.stdin.write(`${JSON.stringify({ id, method, args })}\n`);
      return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
    },
    async end() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    },
  };
}
