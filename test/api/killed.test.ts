import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readdir, rm, utimes } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type Ledger, openLedger } from '../../ledger/client.ts';
import { hashApiKey, newApiKey } from '../../model/api-key.ts';
import { newId } from '../../model/ids.ts';
import { type FreshDatabase, startPostgres } from '../services/postgres.ts';

const program = fileURLToPath(new URL('../../workers/api.ts', import.meta.url));
/** A process takes seconds to start on a busy machine. */
const patienceMs = 180_000;
const key = newApiKey();
const ownerId = newId('owner');

let database: FreshDatabase;
let ledger: Ledger;
let root: string;
let child: ChildProcess;
let base: string;

beforeAll(async () => {
  database = await startPostgres();
  ledger = openLedger(database.url, 2);
  root = await mkdtemp(join(tmpdir(), 'berth-killed-'));
  const keys = { create: { id: newId('key'), role: 'client' as const, hash: hashApiKey(key) } };
  await ledger.owner.create({ data: { id: ownerId, name: 'alice', keys } });
  const image = { name: 'debian-12', digest: 'x', virtualMiB: 1, cmdline: '', sizeBytes: 1n, recipe: {}, parts: {} };
  await ledger.image.create({ data: { id: newId('image'), ...image, state: 'ready' } });
  await start();
}, patienceMs);
afterAll(async () => {
  await kill();
  await ledger.$disconnect();
  await database.stop();
  await rm(root, { recursive: true });
});

/** The API as a process of its own, as in production; Temporal is unreachable. */
async function start(): Promise<void> {
  const env = {
    PATH: process.env.PATH,
    DATABASE_URL: database.url,
    BERTH_API_PORT: '0',
    BERTH_REPOSITORY: root,
    BERTH_SIGNING_KEY: randomUUID(),
    BERTH_REPOSITORY_URL: 'http://127.0.0.1',
    TEMPORAL_ADDRESS: '127.0.0.1:1',
  };
  child = spawn(process.execPath, [program], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: child.stdout! })) {
    const { addresses } = JSON.parse(line) as { addresses?: { port: number }[] };
    if (addresses) {
      child.stdout?.resume();
      base = `http://127.0.0.1:${addresses[0]!.port}`;
      return;
    }
  }
  throw new Error('The API ended without listening');
}

async function kill(): Promise<void> {
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

const headers = { authorization: `Bearer ${key}` };
/** Of uploads: not the mark of the site that owns the folder, nor one whose writer was killed. */
const filesOnDisk = async () =>
  (await readdir(root, { recursive: true, withFileTypes: true })).filter(
    (entry) => entry.isFile() && !entry.name.startsWith('site.json'),
  );

test('killed in the middle of an upload: nothing of it is ever visible, and its remains are removed', {
  timeout: patienceMs,
}, async () => {
  const upload = request(new URL('/v1/files?name=half', base), {
    method: 'POST',
    headers: { ...headers, 'content-length': 10_000_000 },
  });
  upload.on('error', () => undefined);
  upload.write(Buffer.alloc(5_000_000));
  await vi.waitFor(async () => expect(await filesOnDisk()).toHaveLength(1), { timeout: 60_000 });
  await kill();
  const [left] = await filesOnDisk();
  expect(await ledger.owner.findUniqueOrThrow({ where: { id: ownerId } })).toMatchObject({ usedBytes: 10_000_000n });

  const long = new Date(Date.now() - 2 * 3_600_000);
  await utimes(join(left!.parentPath, left!.name), long, long);
  await ledger.file.updateMany({ data: { createdAt: long } });
  await start();
  expect(await (await fetch(`${base}/v1/files`, { headers })).json()).toEqual({ items: [], next: null });
  await vi.waitFor(
    async () => {
      expect(await filesOnDisk()).toEqual([]);
      expect(await ledger.owner.findUniqueOrThrow({ where: { id: ownerId } })).toMatchObject({ usedBytes: 0n });
    },
    { timeout: 60_000 },
  );
});

test('killed among equal POSTs, repeatedly: one task for each key, and its answer is available', {
  timeout: patienceMs,
}, async () => {
  for (let round = 0; round < 2; round += 1) {
    const post = () =>
      fetch(`${base}/v1/tasks`, {
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json', 'idempotency-key': `round-${round}` },
        body: JSON.stringify({ image: 'debian-12', command: ['true'], name: `round-${round}` }),
      });
    const posted = Array.from({ length: 30 }, () => post().then((answer) => answer.text()));
    const settled = Promise.allSettled(posted);
    // In the first round before anything was done, then right after the first commit, while the others are waiting.
    if (round > 0)
      await vi.waitFor(async () => expect(await ledger.task.count({ where: { name: `round-${round}` } })).toBe(1), {
        interval: 1,
        timeout: 60_000,
      });
    await kill();
    await settled;
    await start();
    const again = await post();
    expect(again.status).toBe(202);
    const { id } = (await again.json()) as { id: string };
    expect((await ledger.task.findMany({ where: { name: `round-${round}` } })).map((task) => task.id)).toEqual([id]);
    expect(await ledger.event.count({ where: { subject: id } })).toBe(1);
  }
});
