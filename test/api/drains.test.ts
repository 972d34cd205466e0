import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Drain } from '../../api/schemas/drains.ts';
import { type Page, type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

type DrainBody = z.output<typeof Drain>;
let api: RunningApi;
let host: string;
let vm: string;
let hosts = 0;
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  await api.addHost('target-1', { vcpus: 64, memoryMiB: 65_536, diskMiB: 1_000_000 });
  await api.addHost('target-2', { vcpus: 64, memoryMiB: 65_536, diskMiB: 1_000_000 });
});
beforeEach(async () => {
  hosts += 1;
  host = `host-${hosts}`;
  await api.addHost(host);
  vm = await runningHere();
});
afterAll(() => api.end());

async function runningHere(): Promise<string> {
  const day = 86_400;
  const json = { image: 'debian-12', command: ['true'], timeoutS: day, lease: { kind: 'bestEffort', durationS: day } };
  const { id, vms } = (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json })).body;
  await api.runOn(vms[0]!, host);
  await api.ledger.task.update({ where: { id }, data: { state: 'stagingIn' } });
  await api.ledger.task.update({ where: { id }, data: { state: 'starting' } });
  await api.ledger.task.update({ where: { id }, data: { state: 'running', startedAt: new Date() } });
  return vms[0]!;
}

const after = (seconds: number): string => new Date(Date.now() + seconds * 1000).toISOString();
const ask = (json: object = { deadline: after(1800) }, headers: Record<string, string> = {}) =>
  api.call<DrainBody>(api.operator, 'POST', `/v1/hosts/${host}/drains`, { json, headers });
const change = (id: string, act: string, json?: object) =>
  api.call<DrainBody>(api.operator, 'POST', `/v1/drains/${id}/${act}`, json === undefined ? {} : { json });
const codeOf = (answer: { body: unknown }) => (answer.body as ProblemBody).code;

test('a drain closes its host, has a plan, and is described at its Location', async () => {
  const requested = await ask({ deadline: after(1800), reason: 'new memory' });
  expect(requested.status).toBe(202);
  expect(requested.headers.get('location')).toBe(`/v1/drains/${requested.body.id}`);
  expect(requested.body).toMatchObject({
    host,
    state: 'waiting',
    strategy: 'auto',
    confidence: 0.99,
    workflowId: `drain-${host}-1`,
    reason: 'new memory',
    progress: { moved: 0, moving: 0, left: 1 },
    blockers: [],
    remaining: [],
  });
  expect(requested.body.plan).toMatchObject({ strategy: 'sequential', moves: [{ vm, mode: 'live' }] });
  expect(Date.parse(requested.body.plan!.emptyBy!)).toBeLessThanOrEqual(Date.parse(requested.body.deadline));
  expect(api.workflows.requested.drained).toContain(requested.body.id);
  const { body } = await api.call<{ schedulable: boolean; acceptsMigrations: boolean }>(api.operator, 'GET', `/v1/hosts/${host}`);
  expect(body).toMatchObject({ schedulable: false, acceptsMigrations: false });
  const list = await api.call<Page<DrainBody>>(api.operator, 'GET', `/v1/drains?host=${host}&state=waiting`);
  expect(list.body.items).toEqual([requested.body]);
});

test('a repeated request is one drain, and a host has one active drain at a time', async () => {
  const headers = { 'idempotency-key': `drain-${host}` };
  const json = { deadline: after(1800) };
  const answers = await Promise.all(Array.from({ length: 4 }, () => ask(json, headers)));
  expect(new Set(answers.map(({ status, body }) => `${status} ${body.id}`)).size).toBe(1);
  const others = await Promise.all([ask(), ask()]);
  expect(others.map((one) => [one.status, codeOf(one)])).toEqual([
    [409, 'conflict'],
    [409, 'conflict'],
  ]);
  const open = await api.call(api.operator, 'PATCH', `/v1/hosts/${host}`, { json: { schedulable: true } });
  expect([open.status, open.body.code]).toEqual([409, 'conflict']);
});

test('an impossible deadline is refused at once, with the earliest time and what blocks, and changes nothing', async () => {
  const hurried = await ask({ deadline: after(1) });
  expect([hurried.status, codeOf(hurried)]).toEqual([409, 'drain-impossible']);
  const { detail } = hurried.body as unknown as ProblemBody;
  expect(detail).toContain(vm);
  const earliest = /The earliest is (\S+Z)\./.exec(detail)?.[1];
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'paused', pausedBy: 'guest' } });
  const blocked = await ask({ deadline: after(60) });
  expect((blocked.body as unknown as ProblemBody).detail).toContain(`${vm}: its guest sleeps`);
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'running' } });
  expect(await api.ledger.host.findUnique({ where: { id: host } })).toMatchObject({ schedulable: true, acceptsMigrations: true });
  expect((await ask({ deadline: new Date(Date.parse(earliest!) + 2000).toISOString() })).status).toBe(202);
});

test('it is paused, resumed, given another deadline and cancelled, with a notification of its workflow each time', async () => {
  const { id } = (await ask()).body;
  expect((await change(id, 'pause')).body.state).toBe('paused');
  expect((await change(id, 'pause')).status).toBe(202);
  expect((await change(id, 'resume')).body.state).toBe('waiting');
  const deadline = after(3000);
  const patched = await api.call<DrainBody>(api.operator, 'PATCH', `/v1/drains/${id}`, { json: { deadline } });
  expect([patched.status, patched.body.deadline]).toEqual([202, deadline]);
  const sooner = await api.call(api.operator, 'PATCH', `/v1/drains/${id}`, { json: { deadline: after(1) } });
  expect([sooner.status, sooner.body.code]).toEqual([409, 'drain-impossible']);
  const cancelled = await change(id, 'cancel', { goBack: true });
  expect(cancelled.body.cancelRequestedAt).not.toBeNull();
  expect(api.workflows.requested.changed.filter((one) => one === id)).toHaveLength(5);
  await api.ledger.drain.update({ where: { id }, data: { state: 'cancelled', finishedAt: new Date() } });
  for (const act of ['pause', 'resume']) expect(codeOf(await change(id, act))).toBe('conflict');
  expect(codeOf(await change(id, 'cancel', {}))).toBe('conflict');
  expect((await ask()).body.workflowId).toBe(`drain-${host}-2`);
});

test('it is accepted while Temporal is unreachable', async () => {
  api.workflows.requested.away = true;
  const requested = await ask();
  const paused = await change(requested.body.id, 'pause');
  api.workflows.requested.away = false;
  expect([requested.status, paused.status]).toEqual([202, 202]);
});

test.each([
  [{}, '/deadline'],
  [{ deadline: 'tomorrow' }, '/deadline'],
  [{ deadline: '2100-01-01T00:00:00Z', strategy: 'hasty' }, '/strategy'],
  [{ deadline: '2100-01-01T00:00:00Z', returnAfter: '2099-01-01T00:00:00Z' }, '/returnAfter'],
  [{ deadline: '2100-01-01T00:00:00Z', confidence: 1 }, '/confidence'],
  [{ deadline: '2100-01-01T00:00:00Z', suspendInPlace: 'always' }, '/suspendInPlace'],
  [{ deadline: '2100-01-01T00:00:00Z', suspendInPlace: 'ifStuck', moveDisks: true }, '/suspendInPlace'],
])('%j is refused', async (json, pointer) => {
  const answer = await ask(json);
  expect([answer.status, (answer.body as unknown as ProblemBody).errors.map((one) => one.pointer)]).toEqual([400, [pointer]]);
});

test('drains are for operators, and unknown ones are not found', async () => {
  const requested = await api.call(api.alice, 'POST', `/v1/hosts/${host}/drains`, { json: { deadline: after(1800) } });
  expect([requested.status, requested.body.code]).toEqual([403, 'forbidden']);
  for (const [method, path, json] of [
    ['POST', '/v1/hosts/nowhere/drains', { deadline: after(1800) }],
    ['GET', '/v1/drains/drain_x', undefined],
    ['PATCH', '/v1/drains/drain_x', { deadline: after(1800) }],
    ['POST', '/v1/drains/drain_x/pause', undefined],
  ] as const) {
    const answer = await api.call(api.operator, method, path, json === undefined ? {} : { json });
    expect([path, answer.status, answer.body.code]).toEqual([path, 404, 'not-found']);
  }
});

test('its ETA, slack and blockers are metrics', async () => {
  await ask();
  const text = await (await fetch(new URL('/metrics', api.operatorsBase))).text();
  const value = (name: string) => Number(new RegExp(`^${name}\\{host="${host}"\\} (\\S+)$`, 'm').exec(text)?.[1]);
  expect(value('berth_drain_vms_left')).toBe(1);
  expect(value('berth_drain_blockers')).toBe(0);
  expect(value('berth_drain_eta_seconds')).toBeGreaterThan(1000);
  expect(value('berth_drain_slack_seconds')).toBeGreaterThanOrEqual(0);
  expect(text).toMatch(/^berth_drains\{state="waiting"\} [1-9]/m);
});

test('operators can read its events, and no client can', async () => {
  const { id } = (await ask()).body;
  const read = async (who: typeof api.alice) =>
    (await api.call<Page<{ subject: string; type: string }>>(who, 'GET', '/v1/events?limit=1000')).body.items;
  expect((await read(api.operator)).filter(({ subject }) => subject === id)).toMatchObject([{ type: 'berth.drain.accepted' }]);
  expect((await read(api.alice)).filter(({ subject }) => subject === id)).toEqual([]);
});

test('a VM that no other host can take is suspended on the host, and the answer shows it until the host is opened', async () => {
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'removing' } });
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'removed' } });
  const json = { name: `alone-${hosts}`, image: 'debian-12' };
  const { id } = (await api.call<{ id: string }>(api.alice, 'POST', '/v1/vms', { json })).body;
  await api.runOn(id, host);
  const open = await api.ledger.host.findMany({ where: { id: { not: host }, acceptsMigrations: true } });
  const accepting = (acceptsMigrations: boolean) =>
    api.ledger.host.updateMany({ where: { id: { in: open.map((one) => one.id) } }, data: { acceptsMigrations } });
  await accepting(false);
  try {
    expect(codeOf(await ask())).toBe('drain-impossible');
    const { body } = await ask({ deadline: after(1800), suspendInPlace: 'ifStuck' });
    expect(body).toMatchObject({
      suspendInPlace: 'ifStuck',
      plan: { moves: [], suspensions: [{ vm: id }] },
      progress: { left: 1 },
      suspended: [],
    });
    // The steps of its saga and of the VM's.
    await api.ledger.drainSuspension.create({ data: { drainId: body.id, vmId: id, wasSuspended: false, askedAt: new Date() } });
    for (const state of ['suspending', 'suspended'] as const) await api.ledger.vm.update({ where: { id }, data: { state } });
    const now = new Date();
    await api.ledger.drain.update({ where: { id: body.id }, data: { state: 'empty', emptiedAt: now, finishedAt: now } });
    const seen = (await api.call<DrainBody>(api.operator, 'GET', `/v1/drains/${body.id}`)).body;
    expect(seen.suspended).toEqual([{ vm: id, wasSuspended: false }]);
    const restored = await api.call(api.alice, 'POST', `/v1/vms/${id}/restore`);
    expect([restored.status, restored.body.code, restored.body.detail]).toEqual([
      409,
      'conflict',
      expect.stringContaining(`until host ${host} is opened`),
    ]);
    const opened = await api.call(api.operator, 'PATCH', `/v1/hosts/${host}`, { json: { schedulable: true } });
    expect(opened.status).toBe(200);
    expect(api.workflows.requested.notified).toContain(id);
    expect(await api.ledger.vm.findUniqueOrThrow({ where: { id } })).toMatchObject({ state: 'restoring', operation: 'restore' });
    expect((await api.call<DrainBody>(api.operator, 'GET', `/v1/drains/${body.id}`)).body.suspended).toEqual([]);
  } finally {
    await accepting(true);
  }
});

test('a host is not opened while a VM is still being suspended there for a drain', async () => {
  const { body } = await ask();
  const now = new Date();
  await api.ledger.drain.update({ where: { id: body.id }, data: { state: 'incomplete', finishedAt: now } });
  const json = { name: `alone-${hosts}`, image: 'debian-12' };
  const { id } = (await api.call<{ id: string }>(api.alice, 'POST', '/v1/vms', { json })).body;
  await api.runOn(id, host);
  await api.ledger.drainSuspension.create({ data: { drainId: body.id, vmId: id, wasSuspended: false, askedAt: now } });
  await api.ledger.vm.update({ where: { id }, data: { operation: 'suspend', operationAt: now } });
  const opened = await api.call(api.operator, 'PATCH', `/v1/hosts/${host}`, { json: { schedulable: true } });
  expect([opened.status, opened.body.detail]).toEqual([409, expect.stringContaining('still being suspended')]);
  expect(await api.ledger.host.findUnique({ where: { id: host } })).toMatchObject({ schedulable: false });
});

test('a time beyond what a request may name is none that can be promised', async () => {
  const [row] = await api.ledger.vm.findMany({ where: { id: vm } });
  await api.ledger.lease.update({ where: { id: row!.leaseId! }, data: { durationS: 2_000_000_000, startedAt: new Date() } });
  await api.ledger.task.update({ where: { id: row!.taskId! }, data: { startedAt: null } });
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'paused', pausedBy: 'guest' } });
  const { status, body } = await ask({ deadline: after(60) });
  const problem = body as unknown as ProblemBody & { earliest: string | null };
  expect([status, problem.code, problem.earliest]).toEqual([409, 'drain-impossible', null]);
  expect(problem.detail).toContain('No time can be promised');
});

test('after an incomplete drain a host that is opened takes migrations again, unless they are refused in the same request', async () => {
  const end = async () => {
    const { body } = await ask();
    await api.ledger.drain.update({ where: { id: body.id }, data: { state: 'incomplete', finishedAt: new Date() } });
  };
  const patch = (json: object) =>
    api.call<{ schedulable: boolean; acceptsMigrations: boolean }>(api.operator, 'PATCH', `/v1/hosts/${host}`, { json });
  await end();
  expect((await patch({ schedulable: true })).body).toMatchObject({ schedulable: true, acceptsMigrations: true });
  await end();
  expect((await patch({ schedulable: true, acceptsMigrations: false })).body).toMatchObject({
    schedulable: true,
    acceptsMigrations: false,
  });
  // What an operator has closed while the host was open stays closed.
  expect((await patch({ schedulable: true })).body.acceptsMigrations).toBe(false);
});
