import { afterAll, beforeAll, expect, test } from 'vitest';
import { type FileBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';
import { answeredByGuest, guestView } from './stream-hosts.ts';

let api: RunningApi;
let file: FileBody;
let task: TaskBody;
let image: { digest: string };
const recipe = { name: 'mine', base: { image: 'base-1' } };
let runs: string;
let inTask: string;
let migration: string;
let drain: string;
let reservation: string;
let published: string;
const reserve = (host: string) => ({ hosts: [host], startAt: inAnHour().deadline, durationS: 60, purpose: 'a test' });
const inAnHour = () => ({ deadline: new Date(Date.now() + 3600_000).toISOString() });
const json = { image: 'debian-12', command: ['true'] };
const order = { name: 'alone', image: 'debian-12' };
let alone: string;
const hourly = { vcpuHourMicros: '20000', memoryGiBHourMicros: '5000', diskGiBHourMicros: '10' };
const book = { currency: 'EUR', terms: { rules: [hourly] } };
const offered = { currency: 'EUR', rates: hourly };
let account: string;
let webhook: string;
const hook = { url: 'https://example.net/hook' };
beforeAll(async () => {
  api = await startApi({ BERTH_PUBLIC_ADDRESSES: '203.0.113.7' });
  await api.addImage('debian-12');
  await api.addHost('host-a');
  await api.addHost('host-b');
  file = await api.put(api.operator, 'words', 'words');
  const parts = { disk: { file: 'd' }, kernel: { file: 'k' }, initrd: { file: 'i' } };
  await api.ledger.image.update({ where: { id: await api.addImage('base-1') }, data: { parts } });
  image = (await api.call<{ digest: string }>(api.operator, 'POST', '/v1/images', { json: recipe })).body;
  task = (await api.call<TaskBody>(api.operator, 'POST', '/v1/tasks', { json })).body;
  const moving = (await api.call<TaskBody>(api.operator, 'POST', '/v1/tasks', { json: { ...json, nodes: 2 } })).body;
  const [first, second] = moving.vms as [string, string];
  for (const vm of [first, second]) await api.runOn(vm, 'host-a');
  runs = second;
  inTask = moving.id;
  alone = (await api.call<{ id: string }>(api.operator, 'POST', '/v1/vms', { json: order })).body.id;
  published = (await api.call<{ id: string }>(api.operator, 'POST', `/v1/vms/${runs}/ports`, { json: { port: 22 } })).body.id;
  migration = (await api.call<{ id: string }>(api.operator, 'POST', `/v1/vms/${first}/migrations`, { json: {} })).body.id;
  await api.addHost('host-c');
  await api.addHost('host-d');
  drain = (await api.call<{ id: string }>(api.operator, 'POST', '/v1/hosts/host-d/drains', { json: inAnHour() })).body.id;
  const opened = { owner: api.alice.ownerId, currency: 'EUR' };
  account = (await api.call<{ id: string }>(api.operator, 'POST', '/v1/accounts', { json: opened })).body.id;
  webhook = (await api.call<{ id: string }>(api.operator, 'POST', '/v1/webhooks', { json: hook })).body.id;
  await api.addHost('host-e');
  await api.addHost('host-f');
  reservation = (await api.call<{ id: string }>(api.operator, 'POST', '/v1/reservations', { json: reserve('host-e') })).body.id;
});
afterAll(() => api.end());

async function deletedEntry(path: string): Promise<string> {
  await api.fetch(api.alice, 'PUT', `/v1/tree/${path}`, { body: path });
  return (await api.call<{ id: string }>(api.alice, 'DELETE', `/v1/tree/${path}`)).body.id;
}

/** A successful call of each route, and its answer. */
const calls: Record<string, () => Promise<Response>> = {
  'POST /v1/files': () => api.fetch(api.operator, 'POST', '/v1/files?name=x', { body: 'x' }),
  'GET /v1/files': () => api.fetch(api.operator, 'GET', '/v1/files'),
  'GET /v1/files/{id}': () => api.fetch(api.operator, 'GET', `/v1/files/${file.id}`),
  'GET /v1/files/{id}/content': () => api.fetch(api.operator, 'GET', `/v1/files/${file.id}/content`),
  'DELETE /v1/files/{id}': () => api.fetch(api.operator, 'DELETE', `/v1/files/${file.id}`),
  'GET /v1/tree': () => api.fetch(api.alice, 'GET', '/v1/tree'),
  'POST /v1/tree': () => api.fetch(api.alice, 'POST', '/v1/tree', { json: { action: 'folder', path: 'a/b' } }),
  'PUT /v1/tree/{path}': () => api.fetch(api.alice, 'PUT', '/v1/tree/a/b/c', { body: 'x' }),
  'GET /v1/tree/{path}': () => api.fetch(api.alice, 'GET', '/v1/tree/a/b/c'),
  'PATCH /v1/tree/{path}': () => api.fetch(api.alice, 'PATCH', '/v1/tree/a/b/c', { json: { metadata: { run: '1' } } }),
  'DELETE /v1/tree/{path}': () => api.fetch(api.alice, 'DELETE', '/v1/tree/a/b/c'),
  'GET /v1/trash': () => api.fetch(api.alice, 'GET', '/v1/trash'),
  'POST /v1/trash/{id}/restore': async () =>
    api.fetch(api.alice, 'POST', `/v1/trash/${await deletedEntry('restored')}/restore`, { json: {} }),
  'DELETE /v1/trash/{id}': async () => api.fetch(api.alice, 'DELETE', `/v1/trash/${await deletedEntry('purged')}`),
  'GET /v1/expiry-rules': () => api.fetch(api.alice, 'GET', '/v1/expiry-rules'),
  'POST /v1/expiry-rules': () => api.fetch(api.alice, 'POST', '/v1/expiry-rules', { json: { prefix: 'tmp/', afterS: 3600 } }),
  'DELETE /v1/expiry-rules/{id}': async () => {
    const json = { prefix: 'other/', afterS: 3600 };
    const { body } = await api.call<{ id: string }>(api.alice, 'POST', '/v1/expiry-rules', { json });
    return api.fetch(api.alice, 'DELETE', `/v1/expiry-rules/${body.id}`);
  },
  'POST /v1/tasks': () => api.fetch(api.operator, 'POST', '/v1/tasks', { json }),
  'GET /v1/tasks': () => api.fetch(api.operator, 'GET', '/v1/tasks'),
  'GET /v1/tasks/{id}': () => api.fetch(api.operator, 'GET', `/v1/tasks/${task.id}`),
  'GET /v1/tasks/{id}/log': () => api.fetch(api.operator, 'GET', `/v1/tasks/${task.id}/log`),
  'DELETE /v1/tasks/{id}': () => api.fetch(api.operator, 'DELETE', `/v1/tasks/${task.id}`),
  'POST /v1/vms': () => api.fetch(api.operator, 'POST', '/v1/vms', { json: { ...order, name: 'another' } }),
  'DELETE /v1/vms/{id}': () => api.fetch(api.operator, 'DELETE', `/v1/vms/${alone}`),
  ...Object.fromEntries(
    [
      ['pause', 'running'],
      ['resume', 'paused'],
      ['suspend', 'running'],
      ['restore', 'suspended'],
      ['reboot', 'running'],
    ].map(([name, state]) => [
      `POST /v1/vms/{id}/${name}`,
      async () => {
        await api.ledger.$executeRaw`DELETE FROM "Vm" WHERE name = 'operated'`;
        const { body } = await api.call<{ id: string }>(api.operator, 'POST', '/v1/vms', {
          json: { ...order, name: 'operated' },
        });
        await api.runOn(body.id, 'host-b');
        if (state === 'paused') await api.ledger.vm.update({ where: { id: body.id }, data: { state } });
        if (state === 'suspended')
          for (const next of ['suspending', 'suspended'] as const)
            await api.ledger.vm.update({ where: { id: body.id }, data: { state: next } });
        return api.fetch(api.operator, 'POST', `/v1/vms/${body.id}/${name}`);
      },
    ]),
  ),
  'GET /v1/vms': () => api.fetch(api.operator, 'GET', '/v1/vms'),
  'GET /v1/vms/{id}': () => api.fetch(api.operator, 'GET', `/v1/vms/${task.vms[0]}`),
  'GET /v1/vms/{id}/console': () => {
    api.workflows.requested.consoles.set(alone, 'it boots\n');
    return api.fetch(api.operator, 'GET', `/v1/vms/${alone}/console`);
  },
  'GET /v1/vms/{id}/exec': () => api.fetch(api.operator, 'GET', `/v1/vms/${runs}/exec?command=true`),
  'GET /v1/tasks/{id}/exec': () => api.fetch(api.operator, 'GET', `/v1/tasks/${inTask}/exec?command=true`),
  'GET /v1/vms/{id}/processes': () =>
    answeredByGuest(api, guestView(2), () => api.fetch(api.operator, 'GET', `/v1/vms/${runs}/processes`)),
  'POST /v1/vms/{id}/load': () =>
    answeredByGuest(api, '0m0.00s 0m0.00s\n', () => api.fetch(api.operator, 'POST', `/v1/vms/${runs}/load`, { json: {} })),
  'GET /v1/vms/{id}/forward': () => api.fetch(api.operator, 'GET', `/v1/vms/${runs}/forward?port=80`),
  'POST /v1/vms/{id}/ports': () => api.fetch(api.operator, 'POST', `/v1/vms/${runs}/ports`, { json: { port: 80 } }),
  'GET /v1/vms/{id}/ports': () => api.fetch(api.operator, 'GET', `/v1/vms/${runs}/ports`),
  'GET /v1/vms/{id}/ports/{portId}': () => api.fetch(api.operator, 'GET', `/v1/vms/${runs}/ports/${published}`),
  'DELETE /v1/vms/{id}/ports/{portId}': () => api.fetch(api.operator, 'DELETE', `/v1/vms/${runs}/ports/${published}`),
  'GET /v1/ports': () => api.fetch(api.operator, 'GET', '/v1/ports'),
  'DELETE /v1/edges/{id}': async () => {
    const seenAt = new Date(Date.now() - 60_000);
    await api.ledger.edge.create({ data: { id: 'edge-1', address: '192.0.2.221', seenAt } });
    return api.fetch(api.operator, 'DELETE', '/v1/edges/edge-1');
  },
  'GET /v1/edges': () => api.fetch(api.operator, 'GET', '/v1/edges'),
  'POST /v1/vms/{id}/migrations': () => api.fetch(api.operator, 'POST', `/v1/vms/${runs}/migrations`, { json: {} }),
  'GET /v1/migrations': () => api.fetch(api.operator, 'GET', '/v1/migrations'),
  'GET /v1/migrations/{id}': () => api.fetch(api.operator, 'GET', `/v1/migrations/${migration}`),
  'DELETE /v1/migrations/{id}': () => api.fetch(api.operator, 'DELETE', `/v1/migrations/${migration}`),
  'POST /v1/images': () => api.fetch(api.operator, 'POST', '/v1/images', { json: recipe }),
  'GET /v1/images/{name}/log': () => api.fetch(api.operator, 'GET', `/v1/images/mine/log?digest=${image.digest}`),
  'PUT /v1/images/{name}/publication': () =>
    api.fetch(api.operator, 'PUT', '/v1/images/mine/publication', { json: { published: true } }),
  'DELETE /v1/images/{name}': () => api.fetch(api.operator, 'DELETE', '/v1/images/mine'),
  'GET /v1/images': () => api.fetch(api.operator, 'GET', '/v1/images'),
  'GET /v1/images/{name}': () => api.fetch(api.operator, 'GET', '/v1/images/debian-12'),
  'GET /v1/hosts': () => api.fetch(api.operator, 'GET', '/v1/hosts'),
  'GET /v1/hosts/{id}': () => api.fetch(api.operator, 'GET', '/v1/hosts/host-a'),
  'PATCH /v1/hosts/{id}': () => api.fetch(api.operator, 'PATCH', '/v1/hosts/host-a', { json: { schedulable: true } }),
  'POST /v1/hosts/{id}/drains': () => api.fetch(api.operator, 'POST', '/v1/hosts/host-c/drains', { json: inAnHour() }),
  'DELETE /v1/hosts/{id}': async () => {
    await api.addHost('host-z');
    await api.fetch(api.operator, 'PATCH', '/v1/hosts/host-z', { json: { schedulable: false } });
    return api.fetch(api.operator, 'DELETE', '/v1/hosts/host-z');
  },
  'POST /v1/tasks/{id}/force-end': () => api.fetch(api.operator, 'POST', `/v1/tasks/${task.id}/force-end`, { json: {} }),
  'POST /v1/vms/{id}/force-end': () => api.fetch(api.operator, 'POST', `/v1/vms/${alone}/force-end`, { json: {} }),
  'POST /v1/migrations/{id}/force-end': async () => {
    await api.ledger.migration.update({ where: { id: migration }, data: { abortRequestedAt: new Date() } });
    return api.fetch(api.operator, 'POST', `/v1/migrations/${migration}/force-end`, { json: { vmAt: 'source' } });
  },
  'POST /v1/drains/{id}/force-end': () => api.fetch(api.operator, 'POST', `/v1/drains/${drain}/force-end`, { json: {} }),
  'POST /v1/images/{name}/force-end': async () => {
    await api.call(api.operator, 'POST', '/v1/images', { json: { ...recipe, name: 'ended' } });
    return api.fetch(api.operator, 'POST', '/v1/images/ended/force-end', { json: {} });
  },
  'GET /v1/prices': () => api.fetch(api.operator, 'GET', '/v1/prices'),
  'POST /v1/prices': () => api.fetch(api.operator, 'POST', '/v1/prices', { json: { ...book, validFrom: inAnHour().deadline } }),
  'DELETE /v1/prices/{id}': async () => {
    const { body } = await api.call<{ id: string }>(api.operator, 'POST', '/v1/prices', {
      json: { ...book, validFrom: inAnHour().deadline },
    });
    return api.fetch(api.operator, 'DELETE', `/v1/prices/${body.id}`);
  },
  'GET /v1/bills': () => api.fetch(api.operator, 'GET', '/v1/bills'),
  'GET /v1/bills/{id}': async () => {
    const { leaseId } = await api.ledger.task.findUniqueOrThrow({ where: { id: task.id }, select: { leaseId: true } });
    const { currency, terms } = book;
    const data = { leaseId, subjectId: task.id, ownerId: api.alice.ownerId, accountId: account, currency, terms, holdMicros: 0n };
    await api.ledger.bill.create({ data });
    return api.fetch(api.operator, 'GET', `/v1/bills/${task.id}`);
  },
  'GET /v1/drains': () => api.fetch(api.operator, 'GET', '/v1/drains'),
  'GET /v1/drains/{id}': () => api.fetch(api.operator, 'GET', `/v1/drains/${drain}`),
  'PATCH /v1/drains/{id}': () => api.fetch(api.operator, 'PATCH', `/v1/drains/${drain}`, { json: inAnHour() }),
  'POST /v1/drains/{id}/pause': () => api.fetch(api.operator, 'POST', `/v1/drains/${drain}/pause`),
  'POST /v1/drains/{id}/resume': () => api.fetch(api.operator, 'POST', `/v1/drains/${drain}/resume`),
  'POST /v1/drains/{id}/cancel': () => api.fetch(api.operator, 'POST', `/v1/drains/${drain}/cancel`, { json: {} }),
  'POST /v1/reservations': () => api.fetch(api.operator, 'POST', '/v1/reservations', { json: reserve('host-f') }),
  'GET /v1/reservations': () => api.fetch(api.operator, 'GET', '/v1/reservations'),
  'GET /v1/reservations/{id}': () => api.fetch(api.operator, 'GET', `/v1/reservations/${reservation}`),
  'DELETE /v1/reservations/{id}': () => api.fetch(api.operator, 'DELETE', `/v1/reservations/${reservation}`),
  'GET /v1/schedule': () => api.fetch(api.operator, 'GET', '/v1/schedule'),
  'POST /v1/quotes': () => api.fetch(api.operator, 'POST', '/v1/quotes', { json: { image: 'debian-12' } }),
  'GET /v1/repository': () => api.fetch(api.operator, 'GET', '/v1/repository'),
  'PATCH /v1/repository': () => api.fetch(api.operator, 'PATCH', '/v1/repository', { json: { sweeps: 'on' } }),
  'GET /v1/me': () => api.fetch(api.alice, 'GET', '/v1/me'),
  'GET /v1/owners': () => api.fetch(api.operator, 'GET', '/v1/owners'),
  'POST /v1/owners': () => api.fetch(api.operator, 'POST', '/v1/owners', { json: { name: 'physics' } }),
  'GET /v1/owners/{id}': () => api.fetch(api.operator, 'GET', `/v1/owners/${api.alice.ownerId}`),
  'PATCH /v1/owners/{id}': () =>
    api.fetch(api.operator, 'PATCH', `/v1/owners/${api.alice.ownerId}`, { json: { quotas: { vcpus: 8 } } }),
  'GET /v1/keys': () => api.fetch(api.alice, 'GET', '/v1/keys'),
  'POST /v1/keys': () => api.fetch(api.alice, 'POST', '/v1/keys', { json: {} }),
  'DELETE /v1/keys/{id}': () => api.fetch(api.operator, 'DELETE', `/v1/keys/${api.bob.keyId}`),
  'GET /v1/accounts': () => api.fetch(api.alice, 'GET', '/v1/accounts'),
  'POST /v1/accounts': () =>
    api.fetch(api.operator, 'POST', '/v1/accounts', { json: { owner: api.bob.ownerId, currency: 'EUR' } }),
  'GET /v1/accounts/{id}/entries': () => api.fetch(api.alice, 'GET', `/v1/accounts/${account}/entries`),
  'POST /v1/accounts/{id}/adjustments': () =>
    api.fetch(api.operator, 'POST', `/v1/accounts/${account}/adjustments`, {
      json: { amountMicros: '5', reason: 'a test' },
      headers: { 'Idempotency-Key': 'every-route' },
    }),
  'GET /v1/books': () => api.fetch(api.operator, 'GET', '/v1/books'),
  'GET /v1/statements/{month}': () => api.fetch(api.alice, 'GET', '/v1/statements/2026-11'),
  'GET /v1/providers': () => api.fetch(api.operator, 'GET', '/v1/providers'),
  'POST /v1/providers': () =>
    api.fetch(api.operator, 'POST', '/v1/providers', { json: { name: 'north', owner: api.alice.ownerId } }),
  'POST /v1/providers/{provider}/tokens': async () => {
    await api.call(api.operator, 'POST', '/v1/providers', { json: { name: 'south', owner: api.alice.ownerId } });
    return api.fetch(api.alice, 'POST', '/v1/providers/south/tokens', { json: {} });
  },
  'GET /v1/offers': () => api.fetch(api.alice, 'GET', '/v1/offers'),
  'POST /v1/offers': async () => {
    await api.call(api.operator, 'POST', '/v1/providers', { json: { name: 'east', owner: api.alice.ownerId } });
    return api.fetch(api.alice, 'POST', '/v1/offers', { json: { ...offered, provider: 'east' } });
  },
  'DELETE /v1/offers/{id}': async () => {
    await api.call(api.operator, 'POST', '/v1/providers', { json: { name: 'west', owner: api.alice.ownerId } });
    const { body } = await api.call<{ id: string }>(api.alice, 'POST', '/v1/offers', { json: { ...offered, provider: 'west' } });
    return api.fetch(api.alice, 'DELETE', `/v1/offers/${body.id}`);
  },
  'GET /v1/usage': () => api.fetch(api.alice, 'GET', '/v1/usage'),
  'GET /v1/budgets': () => api.fetch(api.alice, 'GET', '/v1/budgets'),
  'PUT /v1/budgets/{currency}': () => api.fetch(api.alice, 'PUT', '/v1/budgets/EUR', { json: { monthlyMicros: '5' } }),
  'DELETE /v1/budgets/{currency}': async () => {
    await api.fetch(api.alice, 'PUT', '/v1/budgets/EUR', { json: { monthlyMicros: '5' } });
    return api.fetch(api.alice, 'DELETE', '/v1/budgets/EUR');
  },
  'GET /v1/hosts/{id}/metrics': () => api.fetch(api.operator, 'GET', '/v1/hosts/host-a/metrics'),
  'PATCH /v1/vms/{id}': () => api.fetch(api.operator, 'PATCH', `/v1/vms/${runs}`, { json: { pinned: false } }),
  'GET /v1/vms/{id}/metrics': () => api.fetch(api.operator, 'GET', `/v1/vms/${runs}/metrics?step=60`),
  'GET /v1/top/hosts': () => api.fetch(api.operator, 'GET', '/v1/top/hosts'),
  'GET /v1/top/vms': () => api.fetch(api.operator, 'GET', '/v1/top/vms'),
  'GET /v1/metrics': () => api.fetch(api.operator, 'GET', '/v1/metrics'),
  'GET /v1/balancer': () => api.fetch(api.operator, 'GET', '/v1/balancer'),
  'GET /v1/balancer/decisions': () => api.fetch(api.operator, 'GET', '/v1/balancer/decisions'),
  'GET /v1/balancer/decisions/{id}': async () => {
    const seen = { points: 9, spikeS: 8, useLimit: 1, stressedS: 9, use: 1, steal: 0.2 };
    const verdict = { asks: true, kind: 'processors', confidence: 0.5, expectedS: 9, seen };
    const outcome = { kind: 'stay', why: 'noTarget' };
    const decision = { host: 'host-a', atMs: 0, seen: verdict, considered: [], stayed: { pinned: 1 }, refused: {}, outcome };
    const row = { id: 'decided', hostId: 'host-a', mode: 'auto' as const, state: 'stayed' as const, decision };
    await api.ledger.balanceDecision.create({ data: row });
    return api.fetch(api.operator, 'GET', '/v1/balancer/decisions/decided');
  },
  'POST /v1/balancer/plan': () => api.fetch(api.operator, 'POST', '/v1/balancer/plan', { json: {} }),
  'PATCH /v1/balancer': () => api.fetch(api.operator, 'PATCH', '/v1/balancer', { json: { heartbeatS: 10 } }),
  'GET /v1/webhooks': () => api.fetch(api.operator, 'GET', '/v1/webhooks'),
  'POST /v1/webhooks': () => api.fetch(api.operator, 'POST', '/v1/webhooks', { json: { ...hook, scope: 'site' } }),
  'GET /v1/webhooks/{id}': () => api.fetch(api.operator, 'GET', `/v1/webhooks/${webhook}`),
  'PATCH /v1/webhooks/{id}': () =>
    api.fetch(api.operator, 'PATCH', `/v1/webhooks/${webhook}`, { json: { types: ['berth.vm.*'] } }),
  'DELETE /v1/webhooks/{id}': () => api.fetch(api.operator, 'DELETE', `/v1/webhooks/${webhook}`),
  'POST /v1/webhooks/{id}/secrets': () => api.fetch(api.operator, 'POST', `/v1/webhooks/${webhook}/secrets`, { json: {} }),
  'DELETE /v1/webhooks/{id}/secrets/{secretId}': async () => {
    const { body } = await api.call<{ id: string }>(api.operator, 'POST', '/v1/webhooks', { json: hook });
    const [made] = (await api.call<{ secrets: { id: string }[] }>(api.operator, 'GET', `/v1/webhooks/${body.id}`)).body.secrets;
    await api.call(api.operator, 'POST', `/v1/webhooks/${body.id}/secrets`, { json: {} });
    return api.fetch(api.operator, 'DELETE', `/v1/webhooks/${body.id}/secrets/${made!.id}`);
  },
  'GET /v1/webhooks/{id}/deliveries': () => api.fetch(api.operator, 'GET', `/v1/webhooks/${webhook}/deliveries`),
  'POST /v1/webhooks/{id}/replay': () =>
    api.fetch(api.operator, 'POST', `/v1/webhooks/${webhook}/replay`, { json: { after: '0' } }),
  'POST /v1/webhooks/{id}/test': () => api.fetch(api.operator, 'POST', `/v1/webhooks/${webhook}/test`),
  'GET /v1/events': () => api.fetch(api.operator, 'GET', '/v1/events'),
};

test('the document describes every route, and every route answers as described', async () => {
  expect(api.contract.operations().toSorted()).toEqual(Object.keys(calls).toSorted());
  const isEnd = (name: string) => Number(name.startsWith('DELETE') || name.endsWith('/force-end'));
  const inOrder = Object.entries(calls).toSorted(([a], [b]) => isEnd(a) - isEnd(b));
  // Without an upgrade; test/api/streams.test.ts has these routes with one.
  const asksUpgrade = (name: string) => /\/(exec|forward)$/.test(name);
  for (const [name, call] of inOrder) {
    const { ok, status } = await call();
    expect([name, asksUpgrade(name) ? status : ok]).toEqual([name, asksUpgrade(name) ? 426 : true]);
  }
});

/** POSTs and PUTs that take a JSON body. */
const bodies = [
  'POST /v1/tree',
  'POST /v1/trash/{id}/restore',
  'POST /v1/expiry-rules',
  'POST /v1/quotes',
  'POST /v1/tasks',
  'POST /v1/images',
  'PUT /v1/images/{name}/publication',
  'POST /v1/vms',
  'POST /v1/vms/{id}/migrations',
  'POST /v1/vms/{id}/ports',
  'POST /v1/hosts/{id}/drains',
  'POST /v1/drains/{id}/cancel',
  'POST /v1/reservations',
  'POST /v1/tasks/{id}/force-end',
  'POST /v1/vms/{id}/force-end',
  'POST /v1/migrations/{id}/force-end',
  'POST /v1/drains/{id}/force-end',
  'POST /v1/images/{name}/force-end',
  'POST /v1/owners',
  'POST /v1/keys',
  'POST /v1/accounts',
  'POST /v1/accounts/{id}/adjustments',
  'POST /v1/prices',
  'POST /v1/providers',
  'POST /v1/providers/{provider}/tokens',
  'POST /v1/offers',
  'PUT /v1/budgets/{currency}',
  'POST /v1/webhooks',
  'POST /v1/webhooks/{id}/secrets',
  'POST /v1/webhooks/{id}/replay',
  'POST /v1/balancer/plan',
  'POST /v1/vms/{id}/load',
];

/** Of parameters of a path that have a form: any other is refused before the query is read. */
const pathValues: Record<string, string> = { month: '2026-10', currency: 'EUR' };

test('every route refuses a parameter that it does not know', async () => {
  for (const operation of api.contract.operations()) {
    const [method, path] = operation.split(' ') as [string, string];
    const body = method === 'PATCH' || bodies.includes(operation) ? { json: {} } : {};
    const answer = await api.call(
      api.operator,
      method,
      `${path.replace(/\{(\w+)\}/, (_, name: string) => pathValues[name] ?? 'x')}?unheard=of`,
      body,
    );
    expect([operation, answer.status, answer.body.errors.map(({ pointer }) => pointer)]).toEqual([
      operation,
      400,
      expect.arrayContaining(['query.unheard']),
    ]);
  }
});

test('the document is served without a key, and is valid', async () => {
  const answer = await fetch(new URL('/openapi.json', api.base));
  expect(await answer.json()).toEqual(JSON.parse(JSON.stringify(api.contract.document)));
  const text = JSON.stringify(api.contract.document);
  for (const [, reference] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
    expect(Object.keys(api.contract.document.components?.schemas ?? {})).toContain(reference);
  }
  const ids = [...text.matchAll(/"operationId":"(\w+)"/g)].map(([, id]) => id);
  expect(new Set(ids).size).toBe(api.contract.operations().length);
  expect(text).not.toContain('/internal/');
});
