import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';
import { PassThrough } from 'node:stream';
import { WebSocket } from 'ws';
import { Stream } from '../cli/streams/stream.ts';
import { vmUntil } from '../test/site/subjects.ts';
import { onHost, openSite, type TestSite } from '../test/site/the-site.ts';
import { logProgress, median, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';

const keys = 200;

/**
 * `exec.start`: a command of a client in a VM, from its request to its status, against the guest agent's guest-exec of the same on the
 * VM's host. `exec.key`: from a key to its echo by `cat` on a terminal, less a ping over a WebSocket of the same API.
 */
export async function benchExec({ runs }: BenchOptions): Promise<void> {
  const test = await openSite(1);
  try {
    const order = { name: 'bench', image: 'debian-12', resources: { vcpus: 1, memoryMiB: 256, diskMiB: 64 } };
    const { id } = (await test.client.call<{ id: string }>('POST', '/v1/vms', order)).body;
    await vmUntil(test, id, 'running', ({ state }) => state === 'running');
    await compareStarts(test, id, Math.max(runs ?? 15, 3));
    await measureKeys(test, id);
  } finally {
    await test.stop();
  }
}

async function connectionOf({ site }: TestSite) {
  return { api: site.ready.api, key: (await readFile(site.ready.clientKeyFile, 'utf8')).trim() };
}

async function timed(act: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await act();
  return performance.now() - began;
}

async function compareStarts(test: TestSite, vm: string, runs: number): Promise<void> {
  const connection = await connectionOf(test);
  const ours: number[] = [];
  const agents: number[] = [];
  const { host } = (await test.client.call<{ host: string }>('GET', `/v1/vms/${vm}`)).body;
  for (let run = -1; run < runs; run += 1) {
    const query: [string, string][] = [['command', 'true']];
    const one = await timed(() =>
      new Stream(connection, { path: `/v1/vms/${vm}/exec`, query, input: null, onOutput: async () => undefined }).run(),
    );
    const other = await timed(() => agentExec(test, host, vm));
    logProgress(`run ${run + 1}: exec ${Math.round(one)} ms, agent ${Math.round(other)} ms${run < 0 ? ' (warm-up)' : ''}`);
    if (run < 0) continue;
    ours.push(one);
    agents.push(other);
  }
  printFigure('exec.start', median(ours) / 1000, 's', median(agents) / 1000, { runs });
}

/** By virsh on the host, until the agent says that it has ended. */
async function agentExec(test: TestSite, host: string, vm: string): Promise<void> {
  const ask = async (execute: string, args: object) => {
    const said = await onHost(test, host, ['virsh', 'qemu-agent-command', vm, JSON.stringify({ execute, arguments: args })]);
    return (JSON.parse(said) as { return: { pid: number; exited: boolean } }).return;
  };
  const { pid } = await ask('guest-exec', { path: '/bin/true' });
  while (!(await ask('guest-exec-status', { pid })).exited);
}

async function measureKeys(test: TestSite, vm: string): Promise<void> {
  const connection = await connectionOf(test);
  const input = new PassThrough();
  let echoed = Promise.withResolvers<void>();
  const ready = Promise.withResolvers<void>();
  const stream = new Stream(connection, {
    path: `/v1/vms/${vm}/exec`,
    query: [
      ['command', 'sh'],
      ['command', '-c'],
      ['command', 'stty raw -echo; echo ready; exec cat'],
      ['tty', 'true'],
      ['stdin', 'true'],
    ],
    input,
    onOutput: async (_, bytes) => {
      if (Buffer.from(bytes).includes('ready')) ready.resolve();
      echoed.resolve();
    },
  });
  const ended = stream.run().catch((error: unknown) => ready.reject(error));
  await ready.promise;
  const times: number[] = [];
  const pings: number[] = [];
  const ping = await openPing(test, vm);
  for (let key = 0; key < keys; key += 1) {
    echoed = Promise.withResolvers<void>();
    times.push(
      await timed(() => {
        input.write('k');
        return echoed.promise;
      }),
    );
    pings.push(await timed(ping.once));
  }
  ping.close();
  stream.close();
  await ended;
  const sorted = times.toSorted((a, b) => a - b);
  printFigure('exec.key', median(times) - median(pings), 'ms', 50, {
    keys,
    echoMs: median(times),
    pingMs: median(pings),
    p95Ms: sorted[Math.floor(keys * 0.95)],
  });
}

/** A ping over a connection of the same kind. */
async function openPing(test: TestSite, vm: string) {
  const { api, key } = await connectionOf(test);
  const url = new URL(`/v1/vms/${vm}/exec?command=cat&stdin=true`, api.replace('http', 'ws'));
  const socket = new WebSocket(url, 'v1.stream.berth', { headers: { authorization: `Bearer ${key}` } });
  await once(socket, 'open');
  return {
    once: async () => {
      socket.ping();
      await once(socket, 'pong');
    },
    close: () => socket.close(1000),
  };
}
