import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Quote, Schedule } from '../../api/schemas/leases.ts';
import type { Vm } from '../../api/schemas/vms.ts';
import { type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

type QuoteBody = z.output<typeof Quote>;
type ScheduleBody = z.output<typeof Schedule>;
type VmBody = z.output<typeof Vm>;

/** Two hosts, and a reservation of both an hour from now. */
let api: RunningApi;
let startMs: number;
let promised: TaskBody;
const size = { vcpus: 8, memoryMiB: 1024, diskMiB: 64 };
const at = (ms: number): string => new Date(ms).toISOString();
const order = (lease: object, nodes = 2) => ({ image: 'debian-12', command: ['true'], resources: size, nodes, lease });
const reserve = (json: object, headers: Record<string, string> = {}) =>
  api.call<TaskBody & ProblemBody>(api.alice, 'POST', '/v1/tasks', { json, headers });

beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  await api.addHost('host-a');
  await api.addHost('host-b');
  startMs = Date.now() + 3600_000;
  promised = (await reserve(order({ kind: 'reservation', startAt: at(startMs), durationS: 600 }))).body;
});
afterAll(() => api.end());

describe('POST /v1/tasks', () => {
  test('answers a reservation with its promise', async () => {
    expect(promised).toMatchObject({
      state: 'queued',
      lease: { kind: 'reservation', durationS: 600 },
      promise: { startAt: at(startMs), endAt: at(startMs + 600_000) },
    });
    const again = await api.call<TaskBody>(api.alice, 'GET', `/v1/tasks/${promised.id}`);
    expect(again.body.promise).toEqual(promised.promise);
  });

  test('refuses what is impossible, with the reason, and names possible intervals; nothing of it is stored', async () => {
    const before = await api.ledger.lease.count();
    const answer = await reserve(order({ kind: 'reservation', startAt: at(startMs + 60_000), durationS: 600 }));
    expect(answer.status).toBe(409);
    expect(answer.body).toMatchObject({ code: 'lease-refused', reason: 'no-capacity' });
    expect(answer.body.detail).toContain('promised to others');
    const [later] = answer.body.alternatives!;
    expect(later).toMatchObject({ change: 'later', nodes: 2, durationS: 600 });
    expect(Date.parse(later!.startAt)).toBeGreaterThanOrEqual(startMs + 600_000);
    expect(await api.ledger.lease.count()).toBe(before);
    const { startAt, durationS } = later!;
    const taken = await reserve(order({ kind: 'reservation', startAt, durationS }));
    expect(taken.status).toBe(202);
    await api.call(api.alice, 'DELETE', `/v1/tasks/${taken.body.id}`);
  });

  test('is one reservation for any number of requests with one key', async () => {
    const headers = { 'idempotency-key': 'once' };
    const json = order({ kind: 'reservation', startAt: at(startMs + 7200_000), durationS: 60 }, 1);
    const answers = await Promise.all([1, 2, 3, 4].map(() => reserve(json, headers)));
    expect(answers.map(({ status }) => status)).toEqual([202, 202, 202, 202]);
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
  });

  test('starts an immediate lease as soon as its VMs can be ready', async () => {
    const { status, body } = await reserve(order({ kind: 'immediate', durationS: 60 }, 1));
    expect(status).toBe(202);
    const inMs = Date.parse(body.promise!.startAt) - Date.now();
    expect(inMs).toBeGreaterThan(0);
    expect(inMs).toBeLessThan(60_000);
  });

  test.each([
    ['a reservation without a start', { kind: 'reservation', durationS: 60 }, '/lease/startAt'],
    ['a start of best effort', { kind: 'bestEffort', startAt: '2030-01-01T00:00:00Z' }, '/lease/startAt'],
    ['a deadline of a reservation', { kind: 'immediate', deadline: '2030-01-01T00:00:00Z' }, '/lease/deadline'],
    ['a start that is no time', { kind: 'reservation', startAt: 'soon' }, '/lease/startAt'],
  ])('refuses %s', async (_, lease, pointer) => {
    const { status, body } = await reserve(order(lease));
    expect(status).toBe(400);
    expect(body.errors.map((error) => error.pointer)).toContain(pointer);
  });
});

describe('POST /v1/vms', () => {
  const create = (lease: object, name = 'web') =>
    api.call<VmBody & ProblemBody>(api.alice, 'POST', '/v1/vms', { json: { name, image: 'debian-12', resources: size, lease } });

  test('answers a lease with a fixed start with its promise, or refuses it', async () => {
    const startAt = at(startMs + 30_000_000);
    const lease = { kind: 'reservation', startAt, durationS: 600 };
    const { status, body } = await create(lease);
    expect(status).toBe(202);
    expect(body.lease).toEqual({ ...lease, startAt: undefined, startsAt: startAt, endsAt: at(startMs + 30_600_000) });
    expect((await create(lease, 'second')).status).toBe(202);
    const third = await create(lease, 'third');
    expect([third.status, third.body.code, third.body.reason]).toEqual([409, 'lease-refused', 'no-capacity']);
  });

  test.each([
    ['a reservation without a start', { kind: 'reservation', durationS: 60 }, '/lease/startAt'],
    ['one without an end', { kind: 'immediate' }, '/lease/durationS'],
  ])('refuses %s', async (_, lease, pointer) => {
    const { status, body } = await create(lease);
    expect(status).toBe(400);
    expect(body.errors.map((error) => error.pointer)).toContain(pointer);
  });
});

test('a promise is reported in an event, whose subject is the lease', async () => {
  const path = '/v1/events?type=berth.lease.accepted&limit=1000';
  const { body } = await api.call<{ items: { subject: string; data: { task: string; promise: object } }[] }>(
    api.alice,
    'GET',
    path,
  );
  const promiseEvent = body.items.find(({ data }) => data.task === promised.id);
  expect(promiseEvent).toMatchObject({ data: { lease: promiseEvent!.subject, kind: 'reservation', promise: promised.promise } });
});

describe('POST /v1/quotes', () => {
  const quote = (lease: object, nodes = 2) =>
    api.call<QuoteBody>(api.alice, 'POST', '/v1/quotes', {
      json: { image: 'debian-12', resources: size, nodes, lease },
    });

  test('returns what would be promised, and books nothing', async () => {
    const before = await api.ledger.lease.count();
    const startAt = at(startMs + 20_000_000);
    const { status, body } = await quote({ kind: 'reservation', startAt, durationS: 60 });
    expect(status).toBe(200);
    expect(body).toMatchObject({ accepted: true, firm: true, startAt, refused: null });
    expect(await api.ledger.lease.count()).toBe(before);
  });

  test('returns the expected start and end of best effort', async () => {
    const { body } = await quote({ kind: 'bestEffort', durationS: 60 }, 1);
    expect(body).toMatchObject({ accepted: true, firm: false });
    expect(Date.parse(body.endAt!)).toBeGreaterThan(Date.parse(body.startAt!));
  });

  test('returns the reason of a refusal, and the alternatives', async () => {
    const { body } = await quote({ kind: 'reservation', startAt: at(startMs), durationS: 60 });
    expect(body).toMatchObject({ accepted: false, startAt: null, refused: { reason: 'no-capacity' } });
    expect(body.refused!.alternatives.length).toBeGreaterThan(0);
  });
});

describe('GET /v1/schedule', () => {
  const schedule = (who: RunningApi['alice'], query = '') => api.call<ScheduleBody>(who, 'GET', `/v1/schedule${query}`);

  test('shows the caller its own leases, and an operator all', async () => {
    const mine = (await schedule(api.alice)).body;
    const entry = mine.leases.find(({ task }) => task === promised.id);
    expect(entry).toMatchObject({ phase: 'waiting', firm: true, nodes: 2, startAt: at(startMs), endAt: at(startMs + 600_000) });
    expect(entry!.hosts.toSorted()).toEqual(['host-a', 'host-b']);
    expect((await schedule(api.bob)).body).toMatchObject({ leases: [], suspensions: [], unplanned: 0 });
    expect((await schedule(api.operator)).body.leases.map(({ task }) => task)).toContain(promised.id);
  });

  test('of an interval', async () => {
    const tasks = async (query: string) => (await schedule(api.alice, query)).body.leases.map(({ task }) => task);
    expect(await tasks(`?from=${at(startMs)}&to=${at(startMs + 1000)}`)).toContain(promised.id);
    expect(await tasks(`?from=${at(startMs + 601_000)}`)).not.toContain(promised.id);
    expect(await tasks(`?to=${at(startMs)}`)).not.toContain(promised.id);
  });
});
