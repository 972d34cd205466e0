import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent } from 'undici';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { VmRef } from '../../../../contracts/host-calls.ts';
import { createMachineList } from '../../../../drivers/transfer/machine-list.ts';
import { openStepArgs } from '../../../../drivers/transfer/step-args.ts';

let server: Server;
let folder: string;
let answer: { status: number; body: string };
const requests: { url: string; key: string | undefined }[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'berth-step-args-'));
  await writeFile(join(folder, 'key'), 'bh_first\n');
  server = createServer((request, response) => {
    requests.push({ url: request.url ?? '', key: request.headers.authorization });
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.body);
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
});
afterAll(async () => {
  server.close();
  await rm(folder, { recursive: true });
});

const vm = { id: 'vm_1', generation: 3 } as VmRef;
const fetchFrom = (port: number) => {
  const options = { repositoryUrl: `http://127.0.0.1:${port}`, hostId: 'host-1', keyFile: join(folder, 'key') };
  const { fetchStepArgs } = openStepArgs(new Agent(), options, createMachineList());
  return fetchStepArgs(vm, 'stageIn', AbortSignal.timeout(5000));
};
const fetchOne = () => fetchFrom((server.address() as AddressInfo).port);

test('asks for one step of one placement, with the key that the file has now', async () => {
  const hosts = { version: 'v1', addresses: [], here: '192.0.2.2' };
  answer = { status: 200, body: JSON.stringify({ vm: { id: 'vm_1' }, stageIn: { inputs: [] }, hosts }) };
  expect(await fetchOne()).toEqual({ vm: { id: 'vm_1' }, stageIn: { inputs: [] } });
  expect(requests.at(-1)).toEqual({
    url: '/internal/hosts/host-1/orders/vm_1/3?step=stageIn&hosts=none',
    key: 'Bearer bh_first',
  });
  await writeFile(join(folder, 'key'), 'bh_second\n');
  await fetchOne();
  expect(requests.at(-1)?.key).toBe('Bearer bh_second');
});

test('is sent the list of machines once a version, with a step or when it asks', async () => {
  const { port } = server.address() as AddressInfo;
  const options = { repositoryUrl: `http://127.0.0.1:${port}`, hostId: 'host-1', keyFile: join(folder, 'key') };
  const machines = createMachineList();
  const { fetchStepArgs, updateMachines } = openStepArgs(new Agent(), options, machines);
  const signal = AbortSignal.timeout(5000);
  const withStep = async (hosts: object) => {
    answer = { status: 200, body: JSON.stringify({ vm: { id: 'vm_1' }, hosts }) };
    await fetchStepArgs(vm, 'vm', signal);
    return machines.others();
  };
  const alone = async (hosts: object) => {
    answer = { status: 200, body: JSON.stringify(hosts) };
    await updateMachines(signal);
    return machines.others();
  };
  const [here, all] = ['192.0.2.2', ['192.0.2.1', '192.0.2.2', '192.0.2.3']];
  expect(machines.others()).toBe(null);
  expect(await withStep({ version: 'v1', addresses: all, here })).toEqual(['192.0.2.1', '192.0.2.3']);
  expect(await withStep({ version: 'v1', addresses: null, here })).toEqual(['192.0.2.1', '192.0.2.3']);
  expect(requests.at(-1)?.url).toContain('&hosts=v1');
  expect(await alone({ version: 'v2', addresses: all.slice(0, 2), here })).toEqual(['192.0.2.1']);
  expect(requests.at(-1)?.url).toBe('/internal/hosts/host-1/machines?known=v1');
  for (const ask of [withStep, alone])
    await expect(ask({ version: 'v3', addresses: null, here })).rejects.toMatchObject({ code: 'orders-unavailable' });
  answer = { status: 503, body: 'a proxy says no' };
  await expect(updateMachines(signal)).rejects.toMatchObject({ code: 'orders-unavailable' });
  expect(machines.others()).toEqual(['192.0.2.1']);
});

test.each([
  [500, '{"code": "internal", "detail": "a mistake"}'],
  [503, 'a proxy says no'],
  [401, '{"code": "unauthenticated", "detail": "no key of this host"}'],
  [403, 'a proxy says no'],
  [429, '{"code": "rate-limited", "detail": "too many"}'],
  [404, 'a proxy knows no such path'],
])('an answer %i is no answer: the saga asks again', async (status, body) => {
  answer = { status, body };
  await expect(fetchOne()).rejects.toMatchObject({ code: 'orders-unavailable', retryable: false });
});

test.each([
  ['<html>', 'no JSON object'],
  ['null', 'no JSON object'],
  ['{"vm":{}}', 'is none'],
  ['{"vm":{},"hosts":{"version":"v1","addresses":["10.0.0.0/8"],"here":"192.0.2.2"}}', 'is none'],
  ['{"vm":{},"hosts":{"version":"v1","addresses":"192.0.2.1","here":"192.0.2.2"}}', 'is none'],
  ['{"vm":{},"hosts":{"version":1,"addresses":[],"here":"192.0.2.2"}}', 'is none'],
])('nor is %s', async (body, why) => {
  answer = { status: 200, body };
  await expect(fetchOne()).rejects.toMatchObject({ code: 'orders-unavailable', message: expect.stringContaining(why) });
});

test('nor is an API that is away', async () => {
  await expect(fetchFrom(1)).rejects.toMatchObject({ code: 'orders-unavailable' });
});

test.each([
  [409, 'stale-generation'],
  [404, 'not-found'],
  [422, 'input-unavailable'],
])('the ledger says %i: %s', async (status, code) => {
  answer = { status, body: JSON.stringify({ code, detail: 'why' }) };
  await expect(fetchOne()).rejects.toMatchObject({ code, message: expect.stringContaining('why') });
});

test('the hosts of a large site ask for its machines a hundred times a second together', () => {
  const machines = createMachineList();
  const take = (count: number) =>
    machines.take({
      version: `v${count}`,
      addresses: Array.from({ length: count }, (_, n) => `10.0.${Math.floor(n / 250)}.${(n % 250) + 1}`),
      here: '10.0.0.1',
    });
  expect(machines.intervalMs()).toBe(10_000);
  take(1001);
  expect(machines.intervalMs()).toBe(10_000);
  take(5001);
  expect(machines.intervalMs()).toBe(50_000);
});
