import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { hashApiKey, newApiKey } from '../../model/api-key.ts';
import { newId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import type { WebhookId } from '../../model/webhooks/webhook.ts';
import { type FreshDatabase, startPostgres } from '../services/postgres.ts';
import { startTemporal } from '../services/temporal.ts';
import { bundlesVariable } from '../services/with-bundles.ts';
import { isFull } from '../tier.ts';

const root = join(import.meta.dirname, '..', '..');
const rounds = isFull ? 15 : 1;
/** A machine with other work takes minutes for what a quiet one does in half a minute. */
const timeoutMs = isFull ? 3_600_000 : 600_000;
/** A killed worker's activity is repeated after its heartbeat timeout and a pause, 25 s at the most; after a lost signal more passes. */
const standstillMs = 60_000;
/** More are produced than this receiver takes, and each kill of the control worker adds ten seconds of them: the rest would take minutes. */
const mostWaiting = 300;

let folder: string;
let database: FreshDatabase;
let temporal: Awaited<ReturnType<typeof startTemporal>>;
let ledger: Ledger;
let port: number;
const key = newApiKey();
const children = new Map<string, ChildProcess>();
const programs = { receiver: 'test/sagas/webhook-receiver.ts', api: 'workers/api.ts', control: 'workers/control.ts' } as const;
type Party = keyof typeof programs;
const signingKey = randomUUID();
const webhookKeys = `1:${randomBytes(32).toString('base64')}`;
let apiPort: number;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-webhooks-'));
  [database, temporal, port, apiPort] = await Promise.all([startPostgres(), startTemporal(), freePort(), freePort()]);
  ledger = openLedger(database.url);
  await writeFile(join(folder, 'taken'), '');
  const owner = newId('owner');
  const keyRow = { id: newId('key'), role: 'client' as const, hash: hashApiKey(key) };
  await ledger.owner.create({ data: { id: owner, name: 'alice', keys: { create: keyRow } } });
  await Promise.all((Object.keys(programs) as Party[]).map(start));
});
afterAll(async () => {
  await Promise.all((Object.keys(programs) as Party[]).map(kill));
  await ledger.$disconnect();
  await database.stop();
  await temporal.stop();
  await rm(folder, { recursive: true, force: true });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port: free } = server.address() as AddressInfo;
  server.close();
  return free;
}

/** Starts a party, and waits until it is there. */
async function start(party: Party): Promise<void> {
  const env = {
    PATH: process.env.PATH,
    DATABASE_URL: database.url,
    TEMPORAL_ADDRESS: temporal.address,
    TEMPORAL_NAMESPACE: temporal.namespace,
    BERTH_SIGNING_KEY: signingKey,
    BERTH_REPOSITORY_URL: 'http://127.0.0.1',
    BERTH_REPOSITORY: join(folder, 'repository'),
    BERTH_API_PORT: String(apiPort),
    BERTH_WEBHOOK_KEYS: webhookKeys,
    BERTH_WEBHOOK_TIMEOUT_S: '2',
    BERTH_ALLOW_INTERNAL_URLS: '1',
    BERTH_BUNDLE_FOLDER: process.env[bundlesVariable],
  };
  const args = party === 'receiver' ? [String(port), join(folder, 'taken')] : [];
  const child = spawn(process.execPath, [join(root, programs[party]), ...args], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  children.set(party, child);
  for await (const line of createInterface({ input: child.stdout! })) {
    const { addresses, msg } = JSON.parse(line) as { addresses?: unknown; msg?: string };
    if (addresses === undefined && msg !== 'the control worker runs') continue;
    child.stdout!.resume();
    return;
  }
  throw new Error(`${party} ended before it was there`);
}

async function kill(party: Party): Promise<void> {
  const child = children.get(party)!;
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

/** Repeated until it is answered, with one key: the API may be away, or have acted and not answered. */
async function post<T>(path: string, json?: object): Promise<T> {
  const headers = { authorization: `Bearer ${key}`, 'idempotency-key': randomUUID(), 'content-type': 'application/json' };
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${apiPort}${path}`, {
      method: 'POST',
      headers,
      ...(json !== undefined && { body: JSON.stringify(json) }),
    }).catch(() => null);
    if (answer?.ok) return (await answer.json()) as T;
    await pause(100);
  }
}

const taken = async (): Promise<number[]> => {
  const text = await readFile(join(folder, 'taken'), 'utf8');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(Number);
};

async function until(what: string, met: () => Promise<boolean>): Promise<void> {
  const endMs = Date.now() + 120_000;
  while (!(await met())) {
    if (Date.now() > endMs) throw new Error(`it is still not so that ${what}`);
    await pause(50);
  }
}

/**
 * Waits for so many events as long as more and more come. No time is set for all: each answer that is none costs a pause of a second,
 * so this receiver takes a dozen a second at most.
 */
async function untilTaken(count: number, id: WebhookId): Promise<void> {
  for (let most = 0, since = performance.now(); most < count; await pause(250)) {
    const { size } = new Set(await taken());
    if (size > most) [most, since] = [size, performance.now()];
    if (performance.now() - since > standstillMs)
      throw new Error(`${size} of ${count} were taken, and no more came: ${await stateOf(id)}`);
  }
}

/** What is known of a webhook and its workflow, for a failure's message. */
async function stateOf(id: WebhookId): Promise<string> {
  const { epoch, cursor, dueAt, retryAt, failures, lastError } = await ledger.webhook.findUniqueOrThrow({ where: { id } });
  const { status, raw } = await temporal.client.workflow.getHandle(workflowId.webhook(id)).describe();
  const { pendingActivities, pendingWorkflowTask } = raw;
  const state = {
    epoch,
    cursor: String(cursor),
    dueAt,
    retryAt,
    failures,
    lastError,
    status,
    pendingActivities,
    pendingWorkflowTask,
  };
  return JSON.stringify({ now: new Date(), ...state });
}

test(
  'each event comes in order and none is left out, whatever is killed',
  async () => {
    const { id } = await post<{ id: WebhookId }>('/v1/webhooks', { url: `http://127.0.0.1:${port}/` });
    let producing = true;
    let produced = 0;
    const producer = (async () => {
      for (; producing; produced += 1) {
        while (producing && produced - new Set(await taken()).size > mostWaiting) await pause(250);
        await post(`/v1/webhooks/${id}/test`);
        await pause(30);
      }
    })();
    for (let round = 0; round < rounds; round += 1)
      for (const party of Object.keys(programs) as Party[]) {
        const before = new Set(await taken()).size;
        await until('some more were taken', async () => new Set(await taken()).size >= before + 10);
        await kill(party);
        await pause(200);
        await start(party);
      }
    producing = false;
    await producer;
    // An event is numbered after its commit, by what comes next.
    const numbered = { subject: id, seq: { gt: 0 } };
    await until('all are numbered', async () => (await ledger.event.count({ where: numbered })) >= produced);
    const rows = await ledger.event.findMany({ where: numbered, orderBy: { seq: 'asc' }, select: { seq: true } });
    const expected = rows.map(({ seq }) => Number(seq));
    expect(expected).toHaveLength(produced);
    await untilTaken(expected.length, id);
    expect([...new Set(await taken())]).toEqual(expected);
    // Some were sent again: what was taken and not answered, or not recorded.
    expect((await taken()).length).toBeGreaterThan(expected.length);
  },
  timeoutMs,
);
