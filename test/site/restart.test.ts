import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openHome } from '../../infra/site/home.ts';
import { processesOfSite } from '../../infra/site/processes.ts';
import type { Ready } from '../../infra/site/site.ts';
import { until } from '../../infra/site/until.ts';
import { SiteClient } from './client.ts';

const entry = join(import.meta.dirname, '../../infra/site.ts');

/** `npm start`, as a user runs it: a process that prints a line when the site is ready. */
async function start(home: string): Promise<{ child: ChildProcess; ready: Ready; output: () => string }> {
  const env = { ...process.env, BERTH_HOME: home, BERTH_HOSTS: '1' };
  const child = spawn(process.execPath, [entry], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => {
    out += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  const line = await until('the READY line', 120_000, () => {
    if (child.exitCode !== null) throw new Error(output);
    return out.split('\n').find((text) => text.startsWith('READY '));
  });
  return { child, ready: JSON.parse(line.slice('READY '.length)) as Ready, output: () => output };
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  const ended = once(child, 'exit');
  child.kill(signal);
  const [code] = (await ended) as [number | null];
  return code;
}

describe('a site that starts again with the same home', () => {
  let home: string;
  let first: Awaited<ReturnType<typeof start>>;

  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'berth-restart-'));
    first = await start(home);
  });
  afterAll(async () => {
    if (first.child.exitCode === null && first.child.signalCode === null) await end(first.child, 'SIGTERM');
    await rm(home, { recursive: true, force: true });
  });

  const clientOf = ({ api, clientKeyFile }: Ready): Promise<SiteClient> => SiteClient.fromKeyFile(api, clientKeyFile);

  test('keeps keys, files and address, whether it was stopped or killed', async () => {
    const before = await clientOf(first.ready);
    const file = await before.upload('kept', Buffer.from('kept'));
    const keys = await Promise.all([readFile(first.ready.clientKeyFile), readFile(first.ready.operatorKeyFile)]);
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      expect(await end(first.child, signal)).toBe(signal === 'SIGTERM' ? 0 : null);
      await until('its processes to be gone', 10_000, () => processesOfSite(openHome(home).path).length === 0);
      first = await start(home);
      expect(first.output()).not.toContain('published the image');
      expect(await Promise.all([readFile(first.ready.clientKeyFile), readFile(first.ready.operatorKeyFile)])).toEqual(keys);
      const client = await clientOf(first.ready);
      expect(client.api).toBe(before.api);
      expect((await client.download(file)).toString()).toBe('kept');
    }
  });

  test('kills a host worker that stands still, as systemd would, and runs tasks there again', async () => {
    const programOf = (pid: number) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const worker = processesOfSite(openHome(home).path).find((pid) => {
      const [program, entry] = programOf(pid);
      return program === process.execPath && entry?.endsWith('workers/host.ts');
    });
    process.kill(worker!, 'SIGSTOP');
    await until('its end', 60_000, () => first.output().includes('host1/worker has not fed its watchdog for 30 s; it is killed'));
    await until('its successor', 60_000, () => first.output().includes('host1/worker serves again'));
    const client = await clientOf(first.ready);
    const task = await client.submit({ image: 'debian-12', command: ['true'], resources: { diskMiB: 16 } });
    expect(await client.over(task.id)).toMatchObject({ state: 'succeeded', exitCode: 0 });
  });

  test('runs a task as if the site had never stopped', async () => {
    const client = await clientOf(first.ready);
    const task = await client.submit({ image: 'debian-12', command: ['true'], resources: { diskMiB: 16 } });
    expect(await client.over(task.id)).toMatchObject({ state: 'succeeded', exitCode: 0 });
  });
});
