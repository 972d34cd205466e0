import { afterAll, beforeAll, expect, test } from 'vitest';
import type { z } from 'zod';
import type { Reservation } from '../../api/schemas/reservations.ts';
import { type Page, type ProblemBody, type RunningApi, startApi, type TaskBody } from './running-api.ts';

type ReservationBody = z.output<typeof Reservation>;
let api: RunningApi;
beforeAll(async () => {
  api = await startApi();
  await api.addImage('debian-12');
  for (const id of ['a', 'b', 'c', 'd']) await api.addHost(id);
});
afterAll(() => api.end());

const hour = 3600;
const after = (seconds: number): string => new Date(Date.now() + seconds * 1000).toISOString();
const order = (more: object = {}) => ({ nodes: 1, startAt: after(hour), durationS: hour, purpose: 'burn-in', ...more });
const ask = (json: object, headers: Record<string, string> = {}) =>
  api.call<ReservationBody>(api.operator, 'POST', '/v1/reservations', { json, headers });
const end = (id: string) => api.call<ReservationBody>(api.operator, 'DELETE', `/v1/reservations/${id}`);
/** As its workflow does after its notification. */
const release = async (id: string) => {
  await api.ledger.hostReservation.update({ where: { id }, data: { state: 'cancelled', finishedAt: new Date() } });
  await api.ledger.hostHold.updateMany({ where: { reservationId: id }, data: { released: true } });
};

async function runOn(host: string): Promise<string> {
  const day = 86_400;
  const json = { image: 'debian-12', command: ['true'], timeoutS: day, lease: { kind: 'bestEffort', durationS: day } };
  const { id, vms } = (await api.call<TaskBody>(api.alice, 'POST', '/v1/tasks', { json })).body;
  await api.runOn(vms[0]!, host);
  await api.advance(id, 'stagingIn', 'starting', 'running');
  return vms[0]!;
}

test('the hosts that cost least to vacate are held, and remain open until they have to be emptied', async () => {
  await runOn('a');
  await runOn('b');
  await runOn('b');
  const { status, body, headers } = await ask(order({ nodes: 3, returnVms: true }));
  expect(status).toBe(202);
  expect(headers.get('location')).toBe(`/v1/reservations/${body.id}`);
  expect(body).toMatchObject({
    state: 'scheduled',
    hosts: ['a', 'c', 'd'],
    durationS: hour,
    returnVms: true,
    drains: [],
    problem: [],
  });
  expect(body.workflowId).toBe(`reservation-${body.id}`);
  expect(api.workflows.requested.reserved).toContain(body.id);
  expect(await api.ledger.host.count({ where: { schedulable: true } })).toBe(4);
  const list = await api.call<Page<ReservationBody>>(api.operator, 'GET', '/v1/reservations?state=scheduled');
  expect(list.body.items).toEqual([body]);
  await release(body.id);
});

test('a host is held once for any time, for any number of concurrent requests', async () => {
  const answers = await Promise.all(Array.from({ length: 4 }, () => ask(order({ nodes: undefined, hosts: ['c'] }))));
  expect(answers.map(({ status }) => status).toSorted()).toEqual([202, 409, 409, 409]);
  const refused = answers.find(({ status }) => status === 409)!.body as unknown as ProblemBody;
  expect(refused.detail).toContain('c: it is held for reservation_');
  const later = await ask(order({ nodes: undefined, hosts: ['c'], startAt: after(2 * hour) }));
  expect(later.status).toBe(202);
  const first = answers.find(({ status }) => status === 202)!.body;
  await release(first.id);
  await release(later.body.id);
});

test('it is created once by its Idempotency-Key, and ended', async () => {
  const json = order();
  const headers = { 'idempotency-key': 'burn-in-1' };
  const answers = await Promise.all([ask(json, headers), ask(json, headers)]);
  expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
  const { id } = answers[0]!.body;
  const ended = await end(id);
  expect([ended.status, ended.body.cancelRequestedAt === null]).toEqual([202, false]);
  await release(id);
  expect((await end(id)).status).toBe(200);
});

test('what is impossible is refused with each host’s reason', async () => {
  const vm = await runOn('d');
  await api.ledger.vm.update({ where: { id: vm }, data: { state: 'paused', pausedBy: 'guest' } });
  const named = await ask(order({ nodes: undefined, hosts: ['d'] }));
  expect((named.body as unknown as ProblemBody).detail).toContain(`d: ${vm}: its guest sleeps`);
  // Four hosts of which none could take the VMs of the others.
  const all = await ask(order({ nodes: 4 }));
  expect([all.status, (all.body as unknown as ProblemBody).code]).toEqual([409, 'drain-impossible']);
  const others = await ask(order({ nodes: undefined, hosts: ['a', 'b', 'c'], startAt: after(1) }));
  expect((others.body as unknown as ProblemBody).code).toBe('drain-impossible');
  expect((await ask(order({ nodes: undefined, hosts: ['nowhere'] }))).status).toBe(404);
  expect(await api.ledger.hostHold.count({ where: { released: false } })).toBe(0);
});

test.each([
  [{ hosts: ['a'] }, '/nodes'],
  [{ nodes: undefined }, '/nodes'],
  [{ nodes: undefined, hosts: ['a', 'a'] }, '/hosts'],
  [{ durationS: 0 }, '/durationS'],
  [{ purpose: '' }, '/purpose'],
  [{ startAt: 'soon' }, '/startAt'],
])('%j is refused', async (more, pointer) => {
  const answer = await ask(order(more));
  expect([answer.status, (answer.body as unknown as ProblemBody).errors.map((one) => one.pointer)]).toEqual([400, [pointer]]);
});

test('reservations of hosts are for operators', async () => {
  const answer = await api.call(api.alice, 'POST', '/v1/reservations', { json: order() });
  expect([answer.status, answer.body.code]).toEqual([403, 'forbidden']);
});
