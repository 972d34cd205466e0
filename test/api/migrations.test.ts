import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Migration } from '../../api/schemas/migrations.ts';
import { type Page, type Party, type RunningApi, startApi, type TaskBody } from './running-api.ts';

type MigrationBody = z.output<typeof Migration>;
let api: RunningApi;
let vm: string;
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  await api.addHost('host-a', { vcpus: 64, memoryMiB: 65_536, diskMiB: 1_000_000 });
  await api.addHost('host-b');
});
beforeEach(async () => {
  const json = { image: 'debian-12', command: ['true'] };
  vm = (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json })).body.vms[0]!;
  await api.runOn(vm, 'host-a');
});
afterAll(() => api.end());

const ask = (who: Party, json: object = {}, headers: Record<string, string> = {}) =>
  api.call<MigrationBody>(who, 'POST', `/v1/vms/${vm}/migrations`, { json, headers });

test('a requested migration has its row and its workflow, and is described at its Location', async () => {
  const requested = await ask(api.alice, { to: 'host-b', reason: 'a change of air', convergeWithinS: 30 });
  expect(requested.status).toBe(202);
  expect(requested.headers.get('location')).toBe(`/v1/migrations/${requested.body.id}`);
  expect(requested.body).toMatchObject({
    vm,
    state: 'running',
    from: 'host-a',
    to: 'host-b',
    generation: 2,
    workflowId: `migrate-${vm}-2`,
    reason: 'a change of air',
    convergeWithinS: 30,
    phases: [],
    error: null,
  });
  expect(api.workflows.requested.moved).toContain(requested.body.id);
  const read = await api.call<MigrationBody>(api.alice, 'GET', `/v1/migrations/${requested.body.id}`);
  expect(read.body).toEqual(requested.body);
  const list = await api.call<Page<MigrationBody>>(api.alice, 'GET', `/v1/migrations?vm=${vm}&state=running`);
  expect(list.body.items.map(({ id }) => id)).toEqual([requested.body.id]);
});

test('is created once for any number of requests, and by its Idempotency-Key', async () => {
  const headers = { 'idempotency-key': `move-${vm}` };
  const answers = await Promise.all(Array.from({ length: 4 }, () => ask(api.alice, {}, headers)));
  expect(new Set(answers.map(({ status, body }) => `${status} ${body.id}`)).size).toBe(1);
  const another = await ask(api.alice);
  expect([another.status, (another.body as unknown as { code: string }).code]).toEqual([409, 'conflict']);
});

test.each([
  [{ to: 'nowhere' }, 409, 'migration-refused'],
  [{ to: 'host-a' }, 409, 'migration-refused'],
  [{ mode: 'post-copy' }, 400, 'bad-request'],
  [{ moveDisk: 'yes' }, 400, 'bad-request'],
  [{ convergeWithinS: 4 }, 400, 'bad-request'],
  [{ convergeWithinS: 541 }, 400, 'bad-request'],
])('%j is refused', async (json, status, code) => {
  const answer = await ask(api.alice, json);
  expect([answer.status, (answer.body as unknown as { code: string }).code]).toEqual([status, code]);
});

test('a VM that is suspended is moved as files, and in no other way', async () => {
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'suspending' } });
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'suspended' } });
  expect((await ask(api.alice)).status).toBe(409);
  const requested = await ask(api.alice, { mode: 'cold', moveDisk: true });
  expect([requested.status, requested.body.mode, requested.body.moveDisk]).toEqual([202, 'cold', true]);
});

test('a VM that is paused is moved live, unless its guest sleeps, and never as files', async () => {
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'paused', pausedBy: 'guest' } });
  expect((await ask(api.alice)).status).toBe(409);
  await api.ledger.vm.update({ where: { id: vm }, data: { pausedBy: 'owner' } });
  expect((await ask(api.alice, { mode: 'cold' })).status).toBe(409);
  const requested = await ask(api.alice, { ifNotConverging: 'cold' });
  expect([requested.status, requested.body.mode, requested.body.ifNotConverging]).toEqual([202, 'live', 'rollBack']);
});

test('disks on the host where their VM runs are not moved; those of a VM that runs on another host move there', async () => {
  expect((await ask(api.alice, { mode: 'disks' })).status).toBe(409);
  await api.ledger.vm.update({ where: { id: vm }, data: { homeId: 'host-b' } });
  expect((await ask(api.alice, { mode: 'disks', to: 'host-b' })).status).toBe(409);
  const requested = await ask(api.alice, { mode: 'disks' });
  expect([requested.status, requested.body.from, requested.body.to, requested.body.moveDisk]).toEqual([
    202,
    'host-b',
    'host-a',
    true,
  ]);
});

test('a VM that does not run is not moved', async () => {
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'removing' } });
  expect((await ask(api.alice)).status).toBe(409);
});

test('another owner sees neither the VM nor its migration; an operator sees both', async () => {
  expect((await ask(api.bob)).status).toBe(404);
  const { id } = (await ask(api.operator)).body;
  for (const method of ['GET', 'DELETE']) expect((await api.call(api.bob, method, `/v1/migrations/${id}`)).status).toBe(404);
  expect((await api.call<Page<MigrationBody>>(api.bob, 'GET', '/v1/migrations')).body.items).toEqual([]);
  expect((await api.call<MigrationBody>(api.alice, 'GET', `/v1/migrations/${id}`)).status).toBe(200);
});

test('an abort is recorded and its workflow notified; where Temporal is unreachable, the caller gets an error', async () => {
  const { id } = (await ask(api.alice)).body;
  api.workflows.requested.away = true;
  expect((await api.call(api.alice, 'DELETE', `/v1/migrations/${id}`)).status).toBe(503);
  api.workflows.requested.away = false;
  const aborted = await api.call<MigrationBody>(api.alice, 'DELETE', `/v1/migrations/${id}`);
  expect(aborted.status).toBe(202);
  expect(aborted.body.abortRequestedAt).not.toBeNull();
  expect(api.workflows.requested.aborted).toEqual([id]);
  await api.ledger.migration.update({ where: { id }, data: { state: 'rolledBack' } });
  expect((await api.call(api.alice, 'DELETE', `/v1/migrations/${id}`)).status).toBe(200);
});

test('a live one falls back to cold when the request permits it, and not otherwise', async () => {
  const chosen = await ask(api.alice, { to: 'host-b', ifNotConverging: 'cold' });
  expect([chosen.status, chosen.body.ifNotConverging]).toEqual([202, 'cold']);
  await api.ledger.migration.update({ where: { id: chosen.body.id }, data: { state: 'rolledBack' } });
  const usual = await ask(api.alice, { to: 'host-b' });
  expect([usual.status, usual.body.ifNotConverging]).toEqual([202, 'rollBack']);
  await api.ledger.migration.update({ where: { id: usual.body.id }, data: { state: 'rolledBack' } });
});

test('the durations of migrations, the downtimes of guests and the transferred bytes are metrics, by mode and outcome', async () => {
  const { id } = (await ask(api.alice, { to: 'host-b', ifNotConverging: 'cold' })).body;
  const [startedAt, finishedAt] = [new Date(Date.UTC(2026, 0, 1)), new Date(Date.UTC(2026, 0, 1, 0, 0, 3))];
  const end = {
    state: 'succeeded',
    committedAt: finishedAt,
    finishedAt,
    startedAt,
    downtimeMs: 250,
    bytes: 4096n,
    guest: 'silent',
  } as const;
  await api.ledger.migration.update({ where: { id }, data: end });
  const text = await (await fetch(new URL('/metrics', api.operatorsBase))).text();
  const value = (name: string) => text.split('\n').find((line) => line.startsWith(`${name}{mode="live",outcome="succeeded"} `));
  for (const [name, least] of [
    ['berth_migrations_ended_total', 1],
    ['berth_migration_seconds_total', 3],
    ['berth_migration_downtime_seconds_total', 0.25],
    ['berth_migration_bytes_total', 4096],
  ] as const)
    expect(Number(value(name)?.split(' ').at(-1)), name).toBe(least);
  expect(text).toContain('berth_migrated_guests{state="silent"} 1');
  expect((await api.call<MigrationBody>(api.alice, 'GET', `/v1/migrations/${id}`)).body.guest).toBe('silent');
  expect(text).toContain('berth_migrations_ended_total{mode="disks",outcome="rolledBack"} 0');
});
