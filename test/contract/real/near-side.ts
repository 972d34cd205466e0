import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { HostActivities } from '../../../contracts/host.ts';
import type { HostPorts } from '../../../drivers/ports/host-ports.ts';
import { nsenterArgv } from '../../../infra/site/host/host.ts';
import { BerthError, isErrorCode } from '../../../model/errors.ts';
import { pack, unpack } from './wire.ts';

/** A process on a host, with proxies of its ports and activities. */
export interface FarSide {
  ports: HostPorts;
  activities: HostActivities;
  /** Kills it with SIGKILL; active calls fail. */
  kill(): Promise<void>;
  close(): Promise<void>;
}

interface Answer {
  id: number;
  result?: unknown;
  error?: { code: string; message: string };
}

/** @param pid PID 1 of the host. */
export async function openFarSide(pid: number, env: Record<string, string>): Promise<FarSide> {
  const far = new URL('./far-side.ts', import.meta.url).pathname;
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const [program, ...args] = nsenterArgv(pid, ['env', ...variables, process.execPath, far]);
  const child: ChildProcessWithoutNullStreams = spawn(program, args, {
    stdio: ['pipe', 'pipe', 'inherit'],
    detached: true,
  }) as never;
  const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: unknown) => void }>();
  let sent = 0;
  const ready = new Promise((resolve, reject) => waiting.set(0, { resolve, reject }));
  createInterface({ input: child.stdout }).on('line', (line) => {
    const { id, result, error } = unpack(line) as Answer;
    const call = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) call?.resolve(result);
    else call?.reject(isErrorCode(error.code) ? new BerthError(error.code, error.message) : new Error(error.message));
  });
  const ended = new Promise<void>((resolve) =>
    child.once('close', () => {
      for (const { reject } of waiting.values()) reject(new Error('the far side ended'));
      resolve();
    }),
  );
  const call = (port: string | null, method: string, args: unknown[]): Promise<unknown> => {
    sent += 1;
    const id = sent;
    child.stdin.write(`${pack({ id, port, method, args })}
`);
    return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  };
  const proxy = <T extends object>(port: string | null): T =>
    new Proxy({} as T, {
      get:
        (_, method) =>
        (...args: unknown[]) =>
          call(port, String(method), args),
    });
  await ready;
  return {
    ports: new Proxy({} as HostPorts, { get: (_, port) => proxy(String(port)) }),
    activities: proxy<HostActivities>(null),
    async kill() {
      process.kill(-child.pid!, 'SIGKILL');
      await ended;
    },
    async close() {
      child.stdin.end();
      await ended;
    },
  };
}
