import { afterAll, beforeAll, expect, test } from 'vitest';
import { hostLoadFields, type LoadBatch, vmLoadFields } from '../../model/load/load.ts';
import { hostKeyOf } from '../../model/repository/host-key.ts';
import { type Party, type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

let api: RunningApi;
let vms: { alice: string; bob: string };
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  await api.addHost('host-a');
  const vmOf = async (party: Party) => {
    const json = { image: 'debian-12', command: ['true'] };
    const { body } = await api.call<TaskBody>(party, 'POST', '/v1/tasks', { json });
    const vm = body.vms[0]!;
    await api.runOn(vm, 'host-a');
    await api.ledger.vm.update({ where: { id: vm }, data: { startedAt: new Date(Date.now() - 600_000) } });
    return vm;
  };
  vms = { alice: await vmOf(api.alice), bob: await vmOf(api.bob) };
});
afterAll(() => api.end());

const full = <F extends string>(fields: readonly F[], of: Partial<Record<F, number>>) => fields.map((field) => of[field] ?? 0);
let batches = 0;
function batchOf(more: Partial<LoadBatch> = {}): LoadBatch {
  batches += 1;
  const sample = {
    agoS: 1,
    durationS: 10,
    host: full(hostLoadFields, { use: 0.5, mostUse: 0.9, memoryMiB: 1000 }),
    vms: {
      [vms.alice]: full(vmLoadFields, { cpus: 0.4, mostCpus: 0.4, steal: 0.1, memoryMiB: 200, readMiBPerS: 2 }),
      [vms.bob]: full(vmLoadFields, { cpus: 0.8, mostCpus: 0.8 }),
    },
  };
  const base = { id: `b-${batches}`, processors: 2, memoryMiB: 8192, diskMiB: 65_536, processorUse: [40, 60], learned: {} };
  return { ...base, samples: [sample], ...more };
}
const report = (batch: unknown, host = 'host-a', key = hostKeyOf(api.signingKey, 'host-a')) =>
  fetch(`${api.base}/internal/hosts/${host}/load`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(batch),
  });

test('a host reports its load with its own key, and another cannot', async () => {
  expect((await report(batchOf())).status).toBe(204);
  for (const answer of [
    await report(batchOf(), 'host-b'),
    await report(batchOf(), 'host-a', 'bh_wrong'),
    await report(batchOf(), 'host-a', api.operator.key),
  ])
    expect(answer.status).toBe(401);
  expect((await report(batchOf(), 'host-b', hostKeyOf(api.signingKey, 'host-b'))).status).toBe(404);
});

test.each<[string, () => unknown]>([
  ['without samples', () => batchOf({ samples: [] })],
  ['with a field too many', () => ({ ...batchOf(), more: 1 })],
  ['with a load that is too short', () => batchOf({ samples: [{ ...batchOf().samples[0]!, host: [1, 2] }] })],
  ['with a negative load', () => batchOf({ samples: [{ ...batchOf().samples[0]!, host: full(hostLoadFields, { use: -1 }) }] })],
  ['with a VM that is none', () => batchOf({ samples: [{ ...batchOf().samples[0]!, vms: { x: full(vmLoadFields, {}) } }] })],
  ['with too many samples', () => batchOf({ samples: Array.from({ length: 31 }, () => batchOf().samples[0]!) })],
  ['of a time that no host waits', () => batchOf({ samples: [{ ...batchOf().samples[0]!, agoS: 1e9 }] })],
])('a batch %s is refused', async (_what, batch) => {
  expect((await report(batch())).status).toBe(400);
});

test('what a host has reported is in its series and its VMs’, each for its owner and the operators', async () => {
  await report(batchOf());
  interface Series {
    stepS: number;
    points: Record<string, unknown>[];
  }
  const host = await api.call<Series>(api.operator, 'GET', '/v1/hosts/host-a/metrics?step=3600');
  expect([host.status, host.body.stepS]).toEqual([200, 3600]);
  expect(host.body.points.at(-1)).toMatchObject({ use: 0.5, mostUse: 0.9, memoryMiB: 1000, cpuPressure: 0 });
  expect((await api.call(api.alice, 'GET', '/v1/hosts/host-a/metrics')).status).toBe(403);
  for (const party of [api.alice, api.operator]) {
    const own = await api.call<Series>(party, 'GET', `/v1/vms/${vms.alice}/metrics`);
    expect(own.body.stepS).toBe(10);
    expect(own.body.points.at(-1)).toMatchObject({ cpus: 0.4, steal: 0.1, readMiBPerS: 2 });
  }
  expect((await api.call(api.bob, 'GET', `/v1/vms/${vms.alice}/metrics`)).status).toBe(404);
});

test.each([
  ['from=2026-11-30T12:00:00Z&to=2026-11-30T12:00:00Z', 'bad-request'],
  ['from=0000-01-01T00:00:00Z&to=0000-01-02T00:00:00Z', 'bad-request'],
  ['step=1', 'bad-request'],
  ['step=0', 'bad-request'],
  ['from=yesterday', 'bad-request'],
])('a range of %s is refused', async (query, code) => {
  const { body } = await api.call<ProblemBody>(api.alice, 'GET', `/v1/vms/${vms.alice}/metrics?${query}`);
  expect(body.code).toBe(code);
});

test('a range beyond all that is kept has the points that there are', async () => {
  const path = `/v1/vms/${vms.alice}/metrics?from=0000-01-01T00:00:00Z&to=9999-12-31T23:59:59Z&step=7200`;
  const { status, body } = await api.call<{ points: unknown[] }>(api.alice, 'GET', path);
  expect([status, body.points.length > 0]).toEqual([200, true]);
});

test('the busiest come first, an owner’s alone', async () => {
  await report(batchOf());
  const top = async (party: Party, of: string) =>
    (await api.call<{ items: { vm?: string; host: string }[] }>(party, 'GET', `/v1/top/${of}`)).body.items;
  expect((await top(api.operator, 'vms')).map(({ vm }) => vm)).toEqual([vms.bob, vms.alice]);
  expect((await top(api.alice, 'vms')).map(({ vm }) => vm)).toEqual([vms.alice]);
  expect(await top(api.operator, 'hosts')).toMatchObject([{ host: 'host-a', processors: 2, vms: 2, processorUse: [40, 60] }]);
  expect((await api.call(api.alice, 'GET', '/v1/top/hosts')).status).toBe(403);
});

test('Prometheus reads an owner’s VMs in base units', async () => {
  await report(batchOf());
  const answer = await api.fetch(api.alice, 'GET', '/v1/metrics');
  expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
  const text = await answer.text();
  expect(text).toMatch(new RegExp(`^berth_vm_cpus\\{vm="${vms.alice}",name="[^"]+"\\} 0\\.4 \\d{13}$`, 'm'));
  expect(text).toMatch(/^berth_vm_memory_bytes\{.*\} 209715200 \d{13}$/m);
  expect(text).not.toContain(vms.bob);
});

test('the interval is the site’s, unless a host has its own; hosts are told with the list of machines', async () => {
  const intervalOf = async () => {
    const url = `${api.base}/internal/hosts/host-a/machines?known=none`;
    const answer = await fetch(url, { headers: { authorization: `Bearer ${hostKeyOf(api.signingKey, 'host-a')}` } });
    return ((await answer.json()) as { load: { heartbeatS: number } }).load.heartbeatS;
  };
  expect(await intervalOf()).toBe(10);
  expect((await api.call(api.operator, 'PATCH', '/v1/balancer', { json: { heartbeatS: 5 } })).body).toMatchObject({
    heartbeatS: 5,
  });
  expect(await intervalOf()).toBe(5);
  const change = (heartbeatS: unknown) =>
    api.call<{ heartbeatS: unknown }>(api.operator, 'PATCH', '/v1/hosts/host-a', { json: { heartbeatS } });
  expect((await change(2)).body.heartbeatS).toBe(2);
  expect(await intervalOf()).toBe(2);
  expect((await change(null)).body.heartbeatS).toBe(null);
  expect(await intervalOf()).toBe(5);
  for (const wrong of [0, 301, 1.5, 'x']) expect((await change(wrong)).status).toBe(400);
  expect((await api.call(api.operator, 'PATCH', '/v1/balancer', { json: {} })).status).toBe(400);
  expect((await api.call(api.alice, 'GET', '/v1/balancer')).status).toBe(403);
});

test('an owner pins a VM of its own, and no other', async () => {
  const change = (party: Party, json: object) =>
    api.call<{ pinned: boolean; keep: boolean }>(party, 'PATCH', `/v1/vms/${vms.alice}`, { json });
  expect((await change(api.alice, { pinned: true, keep: true })).body).toMatchObject({ pinned: true, keep: true });
  expect((await change(api.alice, { keep: false })).body).toMatchObject({ pinned: true, keep: false });
  expect((await change(api.bob, { pinned: false })).status).toBe(404);
  expect((await change(api.alice, {})).status).toBe(400);
});

test('an owner says where its VMs run, by labels that an operator gives hosts', async () => {
  const rules = { antiAffinity: [{ group: 'web' }], hostLabels: [{ label: 'disk', values: ['ssd'], strength: 'preferred' }] };
  const change = (json: object) => api.call<object>(api.alice, 'PATCH', `/v1/vms/${vms.alice}`, { json });
  expect((await change(rules)).body).toMatchObject({
    antiAffinity: [{ group: 'web', strength: 'strict' }],
    hostLabels: [{ label: 'disk', operator: 'in', values: ['ssd'], strength: 'preferred' }],
    affinity: [],
  });
  for (const wrong of [
    { affinity: [{ group: '' }] },
    { antiAffinity: [{ group: 'a' }, { group: 'a' }] },
    { hostLabels: [{ label: 'x', values: [] }] },
  ])
    expect((await change(wrong)).status).toBe(400);
  const label = (party: Party, labels: object) => api.call<object>(party, 'PATCH', '/v1/hosts/host-a', { json: { labels } });
  expect((await label(api.operator, { disk: 'ssd' })).body).toMatchObject({ labels: { disk: 'ssd' } });
  expect((await label(api.operator, { disk: 'a b' })).status).toBe(400);
  expect((await label(api.alice, {})).status).toBe(403);
  expect((await label(api.operator, {})).body).toMatchObject({ labels: {} });
});

test('decisions and plans are for operators', async () => {
  for (const [method, path] of [
    ['GET', '/v1/balancer/decisions'],
    ['GET', '/v1/balancer/decisions/x'],
    ['POST', '/v1/balancer/plan'],
  ] as const)
    expect((await api.call(api.alice, method, path, method === 'POST' ? { json: {} } : {})).status).toBe(403);
  expect((await api.call(api.operator, 'GET', '/v1/balancer/decisions/none')).status).toBe(404);
});
