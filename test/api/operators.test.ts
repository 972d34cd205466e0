import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RunningApi, startApi } from './running-api.ts';

let api: RunningApi;
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  await api.addHost('host-a');
});
afterAll(() => api.end());

const operators = (path: string) => fetch(new URL(path, api.operatorsBase));

/** The value of a series as Prometheus would read it; null when it does not exist. */
async function metric(series: string): Promise<number | null> {
  const lines = (await (await operators('/metrics')).text()).split('\n');
  const line = lines.find((one) => one.startsWith(`${series} `));
  return line === undefined ? null : Number(line.split(' ').at(-1));
}

test('health reports each part', async () => {
  const well = await operators('/healthz');
  expect([well.status, await well.json()]).toEqual([
    200,
    { status: 'ok', parts: { ledger: 'ok', temporal: 'ok', repository: 'ok' } },
  ]);
  api.workflows.requested.away = true;
  const ill = await operators('/healthz');
  api.workflows.requested.away = false;
  expect([ill.status, await ill.json()]).toEqual([
    503,
    { status: 'failed', parts: { ledger: 'ok', temporal: 'failed', repository: 'ok' } },
  ]);
});

test('metrics count requests by route, bytes, tasks and hosts by state', async () => {
  const json = { image: 'debian-12', command: ['true'] };
  await api.call(api.alice, 'POST', '/v1/tasks', { json });
  await api.call(api.alice, 'GET', '/v1/tasks/x');
  await api.put(api.alice, 'f', Buffer.alloc(100_000));
  await expect
    .poll(() => metric('berth_http_request_duration_seconds_count{method="GET",route="/v1/tasks/{id}",status="404"}'))
    .toBe(1);
  expect(await metric('berth_tasks{state="queued"}')).toBe(1);
  expect(await metric('berth_tasks{state="running"}')).toBe(0);
  expect(await metric('berth_hosts{state="up"}')).toBe(1);
  await api.ledger.vm.updateMany({ data: { boot: 'cold', bootWhy: 'no-template' } });
  expect(await metric('berth_vm_boots{boot="cold",why="no-template"}')).toBe(1);
  const { body } = await api.call<{ items: { boot: unknown }[] }>(api.alice, 'GET', '/v1/vms');
  expect(body.items.map(({ boot }) => boot)).toEqual([{ kind: 'cold', why: 'no-template' }]);
  expect(await metric('berth_queue_oldest_seconds')).toBeGreaterThanOrEqual(0);
  await expect.poll(() => metric('berth_http_bytes_total{direction="in"}')).toBeGreaterThan(100_000);
  expect(await metric('berth_http_bytes_total{direction="out"}')).toBeGreaterThan(500);
});

test('the operators’ port has nothing else', async () => {
  expect((await operators('/v1/tasks')).status).toBe(404);
});
