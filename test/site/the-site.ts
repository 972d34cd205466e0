import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'vitest';
import { run } from '../../drivers/host/run-process.ts';
import { type Host, nsenterArgv } from '../../infra/site/host/host.ts';
import { type Site, startSite } from '../../infra/site/site.ts';
import { openLedger } from '../../ledger/client.ts';
import { hashApiKey, newApiKey } from '../../model/api-key.ts';
import { newId } from '../../model/ids.ts';
import { type HostAnswer, SiteClient, type TaskAnswer } from './client.ts';

/** A site for one test file, in a temporary home, with the two parties that use it. */
export interface TestSite {
  site: Site;
  client: SiteClient;
  operator: SiteClient;
  home: string;
  /** The client's API key. */
  key: string;
  stop(): Promise<void>;
}

/** @param guestProcessors what the guests of each host may keep busy together; null: all of the machine */
export async function openSite(
  hosts = 3,
  settings: Record<string, string> = {},
  edges = 1,
  guestProcessors: number | null = null,
): Promise<TestSite> {
  const home = await mkdtemp(join(tmpdir(), 'berth-site-'));
  const notes: string[] = [];
  try {
    const site = await startSite({ home, hosts, edges, guestProcessors, apiPort: 0, settings, note: (text) => notes.push(text) });
    const { api, clientKeyFile, operatorKeyFile } = site.ready;
    const operator = await SiteClient.fromKeyFile(api, operatorKeyFile);
    await untilAllUp(operator, hosts);
    return {
      site,
      client: await SiteClient.fromKeyFile(api, clientKeyFile),
      operator,
      home,
      key: (await readFile(clientKeyFile, 'utf8')).trim(),
      stop: async () => {
        await site.stop();
        await rm(home, { recursive: true, force: true });
      },
    };
  } catch (error) {
    throw new Error(`the site did not start; it said: ${notes.join('; ')}`, { cause: error });
  }
}

/** A host's worker serves a moment before its host is in the ledger: a task that comes in between gets none of it. */
async function untilAllUp(operator: SiteClient, count: number): Promise<void> {
  for (const untilMs = Date.now() + 60_000; ; await delay(100)) {
    const { body } = await operator.callWithRetry<{ items: HostAnswer[] }>('GET', '/v1/hosts');
    if (body.items.filter(({ state }) => state === 'up').length >= count) return;
    if (Date.now() > untilMs) throw new Error(`not ${count} hosts are up, but ${JSON.stringify(body.items)}`);
  }
}

/** Limits what each of these hosts sends to the others, until the returned function is called. */
export async function limitNetwork(hosts: readonly Host[], mbit: number): Promise<() => Promise<void>> {
  const shape = async (...how: string[]): Promise<void> => {
    for (const { id, pid } of hosts) {
      const into = pid();
      if (into === null) throw new Error(`${id} does not run`);
      await run(nsenterArgv(into, ['tc', 'qdisc', how[0]!, 'dev', 'eth0', 'root', ...how.slice(1)]), { deadlineMs: 10_000 });
    }
  };
  await shape('replace', 'tbf', 'rate', `${mbit}mbit`, 'burst', '64k', 'latency', '50ms');
  return () => shape('del');
}

/** Another client of the same site, with an owner of its own. */
export async function anotherClient({ site }: TestSite): Promise<SiteClient> {
  const ledger = openLedger(site.databaseUrl, 1);
  try {
    const key = newApiKey();
    const id = newId('owner');
    await ledger.owner.create({
      data: { id, name: id, keys: { create: { id: newId('key'), role: 'client', hash: hashApiKey(key) } } },
    });
    return new SiteClient(site.ready.api, key);
  } finally {
    await ledger.$disconnect();
  }
}

export const onHost = ({ site }: TestSite, host: string, argv: readonly string[]): Promise<string> =>
  onMachine(site.hosts, host, argv);
export const onEdge = ({ site }: TestSite, edge: string, argv: readonly string[]): Promise<string> =>
  onMachine(site.edges, edge, argv);

async function onMachine(machines: readonly Host[], id: string, argv: readonly string[]): Promise<string> {
  const pid = machines.find((machine) => machine.id === id)?.pid() ?? null;
  if (pid === null) throw new Error(`${id} does not run`);
  return run(nsenterArgv(pid, argv), { deadlineMs: 30_000 });
}

/** What is on the hosts and reserved in the ledger, when there should be nothing. */
export async function leftovers(test: TestSite): Promise<string[]> {
  const found: string[] = [];
  const hosts = await test.operator.callWithRetry<{ items: HostAnswer[] }>('GET', '/v1/hosts');
  for (const { id, used } of hosts.body.items)
    if (used.vcpus + used.memoryMiB + used.diskMiB > 0) found.push(`${id}: the ledger counts ${JSON.stringify(used)}`);
  for (const { id } of test.site.hosts) {
    const domains = await onHost(test, id, ['virsh', '-q', 'list', '--all', '--name']);
    const folders = await onHost(test, id, ['sh', '-c', 'ls -A /var/lib/berth/vms /var/lib/berth/staging 2>/dev/null || true']);
    const taps = await onHost(test, id, ['sh', '-c', 'ls /sys/class/net']);
    for (const domain of domains.split('\n').filter((line) => line.trim() !== '')) found.push(`${id}: domain ${domain.trim()}`);
    for (const line of folders.split('\n').filter((line) => line !== '' && !line.endsWith(':'))) found.push(`${id}: ${line}`);
    for (const tap of taps.split(/\s+/).filter((name) => /^(bt|vnet)/.test(name))) found.push(`${id}: tap ${tap}`);
  }
  return found;
}

/** The last undo may still be running when a task's end can be read; nothing else may be. */
export async function expectNothingLeft(test: TestSite): Promise<void> {
  await expect.poll(() => leftovers(test), { timeout: 60_000, interval: 250 }).toEqual([]);
}

const completions = ['berth.task.succeeded', 'berth.task.failed', 'berth.task.cancelled'];

/** A task that has ended has reported this exactly once, in the event of its state. */
export async function expectOneCompletion(client: SiteClient, task: TaskAnswer): Promise<Record<string, unknown>> {
  const ends = (await client.eventsOf(task.id)).filter(({ type }) => completions.includes(type));
  expect(ends.map(({ type }) => type)).toEqual([`berth.task.${task.state}`]);
  return ends[0]!.data;
}

export const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
export const gpl = (): Promise<Buffer> => readFile('/usr/share/common-licenses/GPL-3');
