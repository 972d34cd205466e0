import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '../../model/ids.ts';
import { openLog } from '../../model/log.ts';
import { sweepRepository } from '../../workers/sweep/repository-sweep.ts';
import { collect, type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
beforeAll(async () => {
  api = await startApi({ BERTH_QUOTA_BYTES: '50000000' });
  await api.addImage('debian-12');
});
afterAll(() => api.end());

const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000);
const sweep = () =>
  sweepRepository({
    ledger: api.ledger,
    repository: api.repository,
    log: openLog('test', 'error'),
    clock: Date.now,
    logRetentionDays: 2,
    quarantineDays: 7,
    maxShare: 0.1,
  });
const store = (party: typeof api.alice, bytes: number) =>
  api.call(party, 'POST', '/v1/files?name=f', { body: Buffer.alloc(bytes) });
const used = async (party: typeof api.alice) =>
  (await api.ledger.owner.findUniqueOrThrow({ where: { id: party.ownerId } })).usedBytes;

describe('a quota', () => {
  test.each<[string, bigint | undefined, number]>([
    ["of the owner's row", 1_000_000n, 1_000_000],
    ['of the site, where the row says nothing', undefined, 50_000_000],
  ])('%s is filled to the last byte and not beyond', async (name, maxBytes, limit) => {
    const party = await api.addOwner(name, 'client', maxBytes === undefined ? {} : { maxBytes });
    expect((await store(party, limit - 10)).status).toBe(201);
    const beyond = await store(party, 11);
    expect([beyond.status, beyond.body.code]).toEqual([403, 'quota-exceeded']);
    expect((await store(party, 10)).status).toBe(201);
    expect(await used(party)).toBe(BigInt(limit));
  });

  test('is not exceeded by many concurrent uploads', async () => {
    const party = await api.addOwner('crowd', 'client', { maxBytes: 1_000_000n });
    const answers = await Promise.all(Array.from({ length: 20 }, () => store(party, 300_000)));
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(3);
    expect(answers.filter(({ body }) => body.code === 'quota-exceeded')).toHaveLength(17);
    expect(await used(party)).toBe(900_000n);
  });

  test.each([
    ["of the owner's row", { maxBytes: 20_000_000n }],
    ['of the site', {}],
  ])('%s ends an upload that does not say how long it is', async (name, limits) => {
    const party = await api.addOwner(`endless ${name}`, 'client', limits);
    async function* endless() {
      for (;;) yield randomBytes(1_000_000);
    }
    const body = ReadableStream.from(endless());
    const answer = await api.call(party, 'POST', '/v1/files?name=f', { body, duplex: 'half' } as RequestInit);
    expect([answer.status, answer.body.code]).toEqual([403, 'quota-exceeded']);
    expect(await used(party)).toBe(0n);
  });

  test('refuses an upload with an announced length before its bytes are sent', async () => {
    const party = await api.addOwner('announcer', 'client');
    const headers = { expect: '100-continue', 'content-length': 50_000_001, authorization: `Bearer ${party.key}` };
    const upload = request(new URL('/v1/files?name=f', api.base), { method: 'POST', headers });
    upload.flushHeaders();
    const [what, response] = await Promise.race([
      once(upload, 'response').then(([answer]) => ['response', answer] as const),
      once(upload, 'continue').then(() => ['continue', null] as const),
    ]);
    upload.destroy();
    expect([what, response?.statusCode]).toEqual(['response', 403]);
  });

  test('is freed by a deletion', async () => {
    const party = await api.addOwner('tidy', 'client', { maxBytes: 1_000n });
    const file = await api.put(party, 'f', 'x'.repeat(1_000));
    expect((await store(party, 1)).status).toBe(403);
    await api.fetch(party, 'DELETE', `/v1/files/${file.id}`);
    expect((await store(party, 1)).status).toBe(201);
  });
});

describe('a file in use', () => {
  test('by a task that has not ended cannot be deleted', async () => {
    const file = await api.put(api.alice, 'in', 'x');
    const json = { image: 'debian-12', command: ['true'], inputs: [{ path: 'in', file: file.id }] };
    const { body } = await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json });
    const refused = await api.call(api.alice, 'DELETE', `/v1/files/${file.id}`);
    expect([refused.status, refused.body.code]).toEqual([409, 'in-use']);
    await api.advance(body.id, 'failed');
    expect((await api.fetch(api.alice, 'DELETE', `/v1/files/${file.id}`)).status).toBe(204);
  });

  test('by an image cannot be deleted', async () => {
    const file = await api.put(api.operator, 'kernel', 'x');
    const id = await api.addImage('from-file');
    await api.ledger.image.update({ where: { id }, data: { parts: { disk: { file: file.id } } } });
    expect((await api.call(api.operator, 'DELETE', `/v1/files/${file.id}`)).body.code).toBe('in-use');
  });

  test('is never deleted under a task that was accepted at the same moment', async () => {
    for (let round = 0; round < 15; round += 1) {
      const file = await api.put(api.alice, 'in', 'x');
      const json = { image: 'debian-12', command: ['true'], inputs: [{ path: 'in', file: file.id }] };
      const [accepted, deleted] = await Promise.all([
        api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json }),
        api.fetch(api.alice, 'DELETE', `/v1/files/${file.id}`),
      ]);
      expect([
        [202, 409],
        [422, 204],
      ]).toContainEqual([accepted.status, deleted.status]);
    }
  });
});

describe('after a crash', () => {
  test('an upload that died leaves bytes and a reservation, which are removed when they are an hour old', async () => {
    const id = newId('file');
    const before = await used(api.alice);
    await api.ledger.file.create({
      data: { id, ownerId: api.alice.ownerId, name: 'dead', state: 'uploading', sizeBytes: 5_000n },
    });
    const partial = join(api.root, 'partial', `${id}.0123456789ab`);
    await writeFile(partial, 'half');
    await sweep();
    expect(await used(api.alice)).toBe(before + 5_000n);
    await utimes(partial, hoursAgo(2), hoursAgo(2));
    await api.ledger.file.update({ where: { id }, data: { createdAt: hoursAgo(2) } });
    expect(await sweep()).toMatchObject({ partials: 1, uploads: 1 });
    expect(await used(api.alice)).toBe(before);
    expect(await collect(api.repository.bytes.partials())).toEqual([]);
  });

  test('an upload that takes hours is not removed as long as it progresses', async () => {
    const id = newId('file');
    await api.ledger.file.create({
      data: { id, ownerId: api.alice.ownerId, name: 'slow', state: 'uploading', sizeBytes: 1n, createdAt: hoursAgo(9) },
    });
    const partial = join(api.root, 'partial', `${id}.0123456789ab`);
    await writeFile(partial, 'so far');
    expect(await sweep()).toMatchObject({ partials: 0, uploads: 0 });
    await rm(partial);
    expect(await sweep()).toMatchObject({ uploads: 1 });
  });

  test('bytes that were renamed and never committed are taken out, those of a file remain', async () => {
    const file = await api.put(api.alice, 'kept', 'kept');
    const path = api.repository.bytes.path(file.id, file.sha256);
    const replaced = join(dirname(path), `${file.id}-${'0'.repeat(64)}`);
    const orphan = join(dirname(path), `${newId('file')}-${'1'.repeat(64)}`);
    const young = join(dirname(path), `${newId('file')}-${'2'.repeat(64)}`);
    for (const each of [replaced, orphan, young]) await writeFile(each, 'x');
    for (const old of [path, replaced, orphan]) await utimes(old, hoursAgo(2), hoursAgo(2));
    expect(await sweep()).toMatchObject({ bytes: 2 });
    const left = (await collect(api.repository.bytes.files())).map((bytes) => bytes.path);
    expect(left).toContain(path);
    expect(left).toContain(young);
    expect(left).not.toContain(orphan);
    expect(left).not.toContain(replaced);
    await rm(young);
  });
});

test("a task's log is removed when its retention has passed, and not before its task has ended", async () => {
  const accept = async () => {
    const json = { image: 'debian-12', command: ['true'] };
    return (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json })).body.id;
  };
  const [runs, young, old] = [await accept(), await accept(), await accept()];
  const unknown = newId('task');
  async function* line() {
    yield Buffer.from('a line\n');
  }
  for (const id of [runs, young, old, unknown]) await api.repository.logs.append(id, 0, 0, line());
  await api.ledger.task.update({ where: { id: young }, data: { finishedAt: hoursAgo(47) } });
  await api.ledger.task.update({ where: { id: old }, data: { finishedAt: hoursAgo(49) } });
  expect(await sweep()).toMatchObject({ logs: 1, unknownLogs: 1 });
  expect((await collect(api.repository.logs.tasks())).sort()).toEqual([runs, young].sort());
  expect((await api.call(api.alice, 'GET', `/v1/tasks/${old}/log`)).text).toBe('');
});

test('a full disk is reported, and leaves nothing', async () => {
  const run = promisify(execFile);
  const small = await mkdtemp(join(tmpdir(), 'berth-small-'));
  await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', small]);
  try {
    const full = await startApi({ BERTH_REPOSITORY: small });
    try {
      const { status, body } = await full.call(full.alice, 'POST', '/v1/files?name=f', { body: Buffer.alloc(4_000_000) });
      expect([status, body.code]).toEqual([507, 'disk-full']);
      expect(await collect(full.repository.bytes.partials())).toEqual([]);
      expect(await full.ledger.file.count()).toBe(0);
      expect((await full.call(full.alice, 'POST', '/v1/files?name=f', { body: Buffer.alloc(1_000_000) })).status).toBe(201);
    } finally {
      await full.end();
    }
  } finally {
    await run('umount', [small]);
    await rm(small, { recursive: true });
  }
});
