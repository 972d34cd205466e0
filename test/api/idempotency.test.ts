import { randomBytes, randomUUID } from 'node:crypto';
import { request } from 'node:http';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { collect, type FileBody, type Party, type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
});
afterAll(() => api.end());

const task = { image: 'debian-12', command: ['true'] };
const submit = (party: Party, key: string, json: unknown = task) =>
  api.call<TaskBody>(party, 'POST', '/v1/tasks', { json, headers: { 'Idempotency-Key': key } });
const store = (party: Party, key: string, body: string | Uint8Array, name = 'f') =>
  api.call<FileBody>(party, 'POST', `/v1/files?name=${name}`, { body, headers: { 'Idempotency-Key': key } });

describe('tasks', () => {
  test('the same POST 100 times at once is one task, and 100 equal answers', async () => {
    const key = randomUUID();
    const before = await api.ledger.task.count();
    const answers = await Promise.all(Array.from({ length: 100 }, () => submit(api.alice, key)));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]));
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    expect(new Set(answers.map(({ headers }) => headers.get('location'))).size).toBe(1);
    expect(await api.ledger.task.count()).toBe(before + 1);
    expect(await api.ledger.event.count({ where: { subject: answers[0]!.body.id } })).toBe(1);
  });

  test('the answer remains the same byte for byte when the task has advanced', async () => {
    const json = { ...task, env: { ZZ: '1', A: '2' }, name: 'b' };
    const first = await submit(api.alice, 'later', json);
    await api.advance(first.body.id, 'failed');
    const again = await submit(api.alice, 'later', json);
    expect(again.text).toBe(first.text);
    expect(again.headers.get('location')).toBe(first.headers.get('location'));
  });

  test('another body under the same key is refused, and so is another route', async () => {
    await submit(api.alice, 'body');
    const other = await api.call(api.alice, 'POST', '/v1/tasks', {
      json: { ...task, nodes: 2 },
      headers: { 'Idempotency-Key': 'body' },
    });
    expect([other.status, other.body.code]).toEqual([409, 'idempotency-mismatch']);
    const route = await api.call(api.alice, 'POST', '/v1/files?name=x', { body: 'x', headers: { 'Idempotency-Key': 'body' } });
    expect([route.status, route.body.code]).toEqual([409, 'idempotency-mismatch']);
  });

  test("owners' keys are independent", async () => {
    const [one, two] = [await submit(api.alice, 'shared'), await submit(api.bob, 'shared')];
    expect(one.body.id).not.toBe(two.body.id);
  });

  test('a refusal is not remembered: the key is free for a corrected request', async () => {
    expect((await submit(api.alice, 'retry', { ...task, image: 'none' })).status).toBe(422);
    expect((await submit(api.alice, 'retry', { ...task, nodes: 0 })).status).toBe(400);
    expect((await submit(api.alice, 'retry')).status).toBe(202);
  });

  test.each(['', 'a b', 'x'.repeat(256), 'é'])('%j is not a valid key', async (key) => {
    const { status, body } = await api.call(api.alice, 'POST', '/v1/tasks', { json: task, headers: { 'Idempotency-Key': key } });
    expect([status, body.errors[0]?.pointer]).toEqual([400, 'header.Idempotency-Key']);
  });

  test('a process that dies in the middle does not lock the key', async () => {
    // The state of a process killed between its first statement and its commit: an open transaction, then none.
    const dying = new pg.Client({ connectionString: api.databaseUrl });
    await dying.connect();
    await dying.query('BEGIN');
    await dying.query(
      `INSERT INTO "Idempotency" ("ownerId", "key", "method", "path", "fingerprint") VALUES ($1, 'dying', 'POST', '/v1/tasks', 'x')`,
      [api.alice.ownerId],
    );
    const waiting = submit(api.alice, 'dying');
    await vi.waitFor(async () => {
      const { rows } = await dying.query(
        `SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`,
      );
      expect(rows).toHaveLength(1);
    });
    await dying.end();
    expect((await waiting).status).toBe(202);
  });

  test('a repeated POST starts the workflow that the first one could not', async () => {
    api.workflows.requested.away = true;
    const first = await submit(api.alice, 'unstarted');
    api.workflows.requested.away = false;
    expect(api.workflows.requested.started).not.toContain(first.body.id);
    await submit(api.alice, 'unstarted');
    expect(api.workflows.requested.started).toContain(first.body.id);
  });
});

describe('files', () => {
  test('the same upload many times at once is one file, and equal answers', async () => {
    const bytes = randomBytes(200_000);
    const before = await api.ledger.file.count();
    const answers = await Promise.all(Array.from({ length: 20 }, () => store(api.alice, 'upload', bytes)));
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    expect(answers[0]?.status).toBe(201);
    expect(await api.ledger.file.count()).toBe(before + 1);
    const kept = await collect(api.repository.bytes.files());
    expect(kept.filter(({ sha256 }) => sha256 === answers[0]?.body.sha256)).toHaveLength(1);
    expect(await collect(api.repository.bytes.partials())).toEqual([]);
  });

  test('other bytes or another name under the same key are refused', async () => {
    await store(api.alice, 'bytes', 'one');
    for (const other of [await store(api.alice, 'bytes', 'two'), await store(api.alice, 'bytes', 'one', 'g')]) {
      expect([other.status, JSON.parse(other.text).code]).toEqual([409, 'idempotency-mismatch']);
    }
  });

  test('a repetition needs no quota: its first answer may have been lost', async () => {
    const tight = await api.addOwner('tight', 'client', { maxBytes: 1_000n });
    const first = await store(tight, 'full', Buffer.alloc(900));
    expect(first.status).toBe(201);
    expect((await store(tight, 'full', Buffer.alloc(900))).text).toBe(first.text);
  });

  test('an abandoned upload does not lock its key', async () => {
    const headers = { 'content-length': 10, authorization: `Bearer ${api.alice.key}`, 'idempotency-key': 'gone' };
    const upload = request(new URL('/v1/files?name=f', api.base), { method: 'POST', headers });
    upload.on('error', () => undefined);
    upload.write('12345');
    await vi.waitFor(() => api.ledger.file.findFirstOrThrow({ where: { state: 'uploading' } }), { timeout: 60_000 });
    upload.destroy();
    expect((await store(api.alice, 'gone', '1234567890')).status).toBe(201);
  });
});
