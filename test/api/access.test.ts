import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type FileBody, type Page, type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
let file: FileBody;
let task: TaskBody;
let account: string;
let deletion: string;
beforeAll(async () => {
  // Every route is tried with unknown keys, all from one address.
  api = await startApi({ BERTH_UNKNOWN_KEYS_PER_MINUTE: '10000' });
  await api.addImage('debian-12');
  await api.addHost('host-a');
  file = await api.put(api.alice, 'mine', 'mine');
  for (const name of ['x', 'deleted']) await api.fetch(api.alice, 'PUT', `/v1/tree/mine/${name}`, { body: name });
  deletion = (await api.call<{ id: string }>(api.alice, 'DELETE', '/v1/tree/mine/deleted')).body.id;
  const opened = { owner: api.alice.ownerId, currency: 'EUR' };
  account = (await api.call<{ id: string }>(api.operator, 'POST', '/v1/accounts', { json: opened })).body.id;
  task = (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json: { image: 'debian-12', command: ['true'] } })).body;
});
afterAll(() => api.end());

const fill = (path: string) => path.replace(/\{\w+\}/g, 'x');

test('every route refuses a caller without a key, and one with a wrong key', async () => {
  const operations = api.contract.operations().map((operation) => operation.split(' ') as [string, string]);
  expect(operations.length).toBeGreaterThan(15);
  for (const [method, path] of operations) {
    for (const headers of [
      {},
      { authorization: 'Bearer berth_wrong' },
      { authorization: `Basic ${api.alice.key}` },
      { authorization: '' },
    ]) {
      const { status, body, headers: answered } = await api.call(null, method, fill(path), { headers });
      expect([method, path, status, body.code]).toEqual([method, path, 401, 'unauthenticated']);
      expect(answered.get('www-authenticate')).toBe('Bearer realm="berth"');
    }
  }
});

test("every operators' route refuses a client", async () => {
  for (const [method, path] of [
    ['GET', '/v1/hosts'],
    ['GET', '/v1/hosts/host-a'],
    ['PATCH', '/v1/hosts/host-a'],
    ['POST', '/v1/accounts'],
    ['POST', '/v1/accounts/x/adjustments'],
    ['GET', '/v1/books'],
  ] as const) {
    const { status, body } = await api.call(api.alice, method, path, method === 'PATCH' ? { json: { schedulable: false } } : {});
    expect([method, path, status, body.code]).toEqual([method, path, 403, 'forbidden']);
  }
  expect((await api.ledger.host.findUniqueOrThrow({ where: { id: 'host-a' } })).schedulable).toBe(true);
});

describe('what belongs to another owner', () => {
  test.each([
    ['GET', () => `/v1/files/${file.id}`],
    ['GET', () => `/v1/files/${file.id}/content`],
    ['HEAD', () => `/v1/files/${file.id}/content`],
    ['DELETE', () => `/v1/files/${file.id}`],
    ['GET', () => '/v1/tree/mine/x'],
    ['GET', () => '/v1/tree/mine?archive=tar'],
    ['GET', () => '/v1/tree/mine?describe=1'],
    ['GET', () => '/v1/tree?folder=mine'],
    ['DELETE', () => '/v1/tree/mine/x'],
    ['DELETE', () => '/v1/tree/mine?recursive=1'],
    ['DELETE', () => `/v1/trash/${deletion}`],
    ['GET', () => `/v1/tasks/${task.id}`],
    ['GET', () => `/v1/tasks/${task.id}/log`],
    ['GET', () => `/v1/tasks/${task.id}/log?follow=1`],
    ['DELETE', () => `/v1/tasks/${task.id}`],
    ['GET', () => `/v1/vms/${task.vms[0]}`],
    ['GET', () => `/v1/vms/${task.vms[0]}/console`],
    ['GET', () => `/v1/vms/${task.vms[0]}/exec?command=true`],
    ['GET', () => `/v1/tasks/${task.id}/exec?command=true`],
    ['GET', () => `/v1/vms/${task.vms[0]}/forward?port=80`],
    ['GET', () => `/v1/accounts/${account}/entries`],
  ])('%s %s is a 404, the same as for what is not there', async (method, path) => {
    const foreign = await api.fetch(api.bob, method, path());
    const absent = await api.fetch(api.bob, method, path().replace(/[a-z]+_[0-9a-z]{26}/, 'x'));
    expect([foreign.status, absent.status]).toEqual([404, 404]);
  });

  test('nothing happened to it, and no list contains it', async () => {
    expect((await api.call(api.alice, 'GET', `/v1/files/${file.id}`)).status).toBe(200);
    expect((await api.call<TaskBody>(api.alice, 'GET', `/v1/tasks/${task.id}`)).body.cancelRequestedAt).toBeNull();
    expect(await (await api.fetch(api.alice, 'GET', '/v1/tree/mine/x')).text()).toBe('x');
    expect((await api.call<Page<unknown>>(api.bob, 'GET', '/v1/tree?prefix=')).body.items).toEqual([]);
    for (const list of ['trash', 'expiry-rules', 'files', 'tasks', 'vms', 'events', 'accounts', 'webhooks']) {
      expect((await api.call<Page<unknown>>(api.bob, 'GET', `/v1/${list}`)).body.items).toEqual([]);
    }
  });

  test('an operator sees it', async () => {
    for (const path of [`/v1/files/${file.id}`, `/v1/tasks/${task.id}`, `/v1/vms/${task.vms[0]}`]) {
      expect((await api.call(api.operator, 'GET', path)).status).toBe(200);
    }
  });
});

describe('images', () => {
  test("of the operator are for all owners, and an owner's are for itself", async () => {
    await api.addImage('bobs', api.bob);
    const names = async (party: typeof api.alice) =>
      (await api.call<Page<{ name: string }>>(party, 'GET', '/v1/images')).body.items.map(({ name }) => name).toSorted();
    expect(await names(api.alice)).toEqual(['debian-12']);
    expect(await names(api.bob)).toEqual(['bobs', 'debian-12']);
    expect((await api.call(api.alice, 'GET', '/v1/images/bobs')).status).toBe(404);
  });

  test('a name refers to its newest digest that is ready', async () => {
    const newer = await api.addImage('debian-12');
    await api.ledger.image.update({ where: { id: await api.addImage('debian-12') }, data: { state: 'retired' } });
    const { body } = await api.call<{ id: string; hosts: string[] }>(api.alice, 'GET', '/v1/images/debian-12');
    expect(body).toMatchObject({ id: newer, hosts: [] });
    await api.ledger.hostImage.create({ data: { hostId: 'host-a', imageId: newer } });
    expect((await api.call<{ hosts: string[] }>(api.alice, 'GET', '/v1/images/debian-12')).body.hosts).toEqual(['host-a']);
  });
});

describe('hosts', () => {
  test('an operator takes a host out of scheduling and back', async () => {
    const change = (json: unknown) =>
      api.call<{ schedulable: boolean; acceptsMigrations: boolean }>(api.operator, 'PATCH', '/v1/hosts/host-a', { json });
    expect((await change({ schedulable: false })).body).toMatchObject({ schedulable: false, acceptsMigrations: true });
    expect((await change({ acceptsMigrations: false })).body).toMatchObject({ schedulable: false, acceptsMigrations: false });
    expect((await change({ schedulable: true, acceptsMigrations: true })).body).toMatchObject({
      schedulable: true,
      acceptsMigrations: true,
    });
  });

  test('the queue is processed when a host accepts VMs again, whether Temporal answers or not', async () => {
    const change = (json: unknown) => api.call(api.operator, 'PATCH', '/v1/hosts/host-a', { json });
    const before = api.workflows.requested.looks;
    await change({ schedulable: false });
    await change({ acceptsMigrations: true });
    expect(api.workflows.requested.looks).toBe(before);
    await change({ schedulable: true });
    expect(api.workflows.requested.looks).toBe(before + 1);
    api.workflows.requested.away = true;
    expect((await change({ schedulable: true })).status).toBe(200);
    api.workflows.requested.away = false;
  });

  test.each([{}, { schedulable: 'no' }, { state: 'up' }, { vcpus: 100 }])('%j is refused', async (json) => {
    expect((await api.call(api.operator, 'PATCH', '/v1/hosts/host-a', { json })).status).toBe(400);
  });

  test('an unknown host is a 404', async () => {
    expect((await api.call(api.operator, 'GET', '/v1/hosts/none')).status).toBe(404);
    expect((await api.call(api.operator, 'PATCH', '/v1/hosts/none', { json: { schedulable: true } })).status).toBe(404);
  });
});

test('a revoked key stops working within seconds', async () => {
  const leaver = await api.addOwner('leaver', 'client');
  expect((await api.call(leaver, 'GET', '/v1/files')).status).toBe(200);
  await api.ledger.apiKey.update({ where: { id: leaver.keyId }, data: { revokedAt: new Date() } });
  api.clock.offsetMs += 2_001;
  expect((await api.call(leaver, 'GET', '/v1/files')).status).toBe(401);
  api.clock.offsetMs = 0;
});

test('the key itself is nowhere in the ledger', async () => {
  const rows = await api.ledger.apiKey.findMany();
  expect(JSON.stringify(rows)).not.toContain(api.alice.key);
});

describe('what does not exist', () => {
  test.each(['/', '/v1', '/v2/tasks', '/v1/tasks/', '/V1/tasks', '/v1/nothing', '/healthz', '/metrics', '/internal/nothing'])(
    '%s is a 404 as a problem',
    async (path) => {
      const { status, body, headers } = await api.call(api.alice, 'GET', path);
      expect([status, body.code, headers.get('content-type')]).toEqual([
        404,
        'not-found',
        'application/problem+json; charset=utf-8',
      ]);
    },
  );

  test.each([
    ['PUT', '/v1/tasks', 'POST, GET, HEAD'],
    ['POST', '/v1/tasks/x', 'GET, HEAD, DELETE'],
    ['POST', '/v1/events', 'GET, HEAD'],
    ['PUT', '/v1/hosts/host-a', 'DELETE, GET, HEAD, PATCH'],
  ])('%s %s is a 405 that says what there is', async (method, path, allow) => {
    const { status, body, headers } = await api.call(api.alice, method, path);
    expect([status, body.code, headers.get('allow')]).toEqual([405, 'method-not-allowed', allow]);
  });

  test('an invalid id is a 404, whatever it contains', async () => {
    for (const id of ['x', '%00', '..%2f..%2fetc', 'file_%F0%9F%92%A3', "'%3B--"]) {
      expect([400, 404]).toContain((await api.call(api.alice, 'GET', `/v1/files/${id}`)).status);
    }
    expect((await api.call(api.alice, 'GET', '/v1/files/%E0%A4%A')).status).toBe(400);
  });
});

describe('every answer', () => {
  test('has the id of its request, the caller’s where that is valid', async () => {
    const given = await api.call(api.alice, 'GET', '/v1/files/x', { headers: { 'X-Request-Id': 'my-request.1' } });
    expect([given.headers.get('x-request-id'), given.body.requestId]).toEqual(['my-request.1', 'my-request.1']);
    const own = await api.fetch(api.alice, 'GET', '/v1/files', { headers: { 'X-Request-Id': 'a b"c' } });
    expect(own.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  test('reveals nothing of its implementation', async () => {
    const answer = await api.fetch(api.alice, 'GET', '/v1/files');
    expect(answer.headers.get('x-powered-by')).toBeNull();
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
  });
});

test('the log identifies requests by their ids, and contains no key and no signature', async () => {
  const headers = { 'X-Request-Id': 'logged-1' };
  const json = { image: 'debian-12', command: ['true'] };
  const { body } = await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json, headers });
  await (await fetch(api.signed('GET', `/internal/files/${file.id}`), { headers })).text();
  await expect.poll(() => api.logged.filter((line) => line.includes('"logged-1"')).length).toBeGreaterThanOrEqual(2);
  const lines = api.logged.map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines).toContainEqual(expect.objectContaining({ taskId: body.id, owner: api.alice.ownerId, keyId: api.alice.keyId }));
  const text = api.logged.join('');
  expect(text).not.toContain(api.alice.key);
  expect(text).not.toContain('signature=');
});

test('requests are limited by key, and the refusal names the time of the next permitted one', async () => {
  const limited = await startApi({ BERTH_RATE_PER_MINUTE: '5' });
  try {
    const get = (party: typeof limited.alice) => limited.call(party, 'GET', '/v1/files');
    const answers = [];
    for (let i = 0; i < 6; i += 1) answers.push(await get(limited.alice));
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 429]);
    expect(answers[0]?.headers.get('ratelimit')).toMatch(/^"requests";\s*r=4;\s*t=\d+$/);
    expect(answers[5]?.body.code).toBe('rate-limited');
    expect(Number(answers[5]?.headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await get(limited.bob)).status).toBe(200);
  } finally {
    await limited.end();
  }
});
