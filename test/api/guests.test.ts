import { once } from 'node:events';
import http from 'node:http';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { BerthError } from '../../model/errors.ts';
import type { Party, ProblemBody, RunningApi } from './running-api.ts';
import { guestView, hostOf, startApiWithVm } from './stream-hosts.ts';

/** A guest's own view and load tests, with a host that tests play. */

let api: RunningApi;
let vm: string;
let hosts: ReturnType<typeof hostOf>;
beforeAll(async () => {
  ({ api, vm } = await startApiWithVm());
});
afterAll(() => api.end());
beforeEach(() => {
  hosts = hostOf(api.base);
  api.workflows.requested.openStream = hosts.open;
});

const processes = (party: Party, query = '') => api.call<object>(party, 'GET', `/v1/vms/${vm}/processes${query}`);
const load = (party: Party, json: object) => api.call<object>(party, 'POST', `/v1/vms/${vm}/load`, { json });

async function answer(output: string, code = 0): Promise<void> {
  await expect.poll(() => hosts.attached).toBeGreaterThan(0);
  for (let at = 0; at < output.length; at += 16_000) hosts.output(output.slice(at, at + 16_000));
  hosts.end(code);
}

test("a guest's processes come through its program, over a lost connection too", async () => {
  const answered = processes(api.alice, '?limit=2');
  await expect.poll(() => hosts.attached).toBe(1);
  const output = guestView(3);
  hosts.output(output.slice(0, 50));
  hosts.lose();
  await expect.poll(() => hosts.attached, { timeout: 10_000 }).toBe(2);
  hosts.output(output.slice(50));
  hosts.end(0);
  const { status, body } = await answered;
  expect([status, body]).toMatchObject([200, { processes: 3, memory: null, loadAverages: [0.1, 0.2, 0.3] }]);
  expect((body as { items: object[] }).items).toMatchObject([{ pid: 1, cpus: 0.5, name: 'busy' }, { pid: 2 }]);
  expect(hosts.orders.every(({ needsProgram }) => needsProgram)).toBe(true);
  // The guest need not keep it any longer.
  await expect.poll(() => hosts.last).toBe('close');
});

test('a guest that answers anything else, or too much, ends its session and nothing more', async () => {
  const wrong = processes(api.alice);
  await answer('no such thing');
  expect((await wrong).status).toBe(422);
  const much = processes(api.alice);
  await expect.poll(() => hosts.attached).toBeGreaterThan(1);
  const sent = (async () => {
    for (let n = 0; n < 200 && hosts.last !== 'close'; n += 1) {
      hosts.output('x'.repeat(16_000));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  expect((await much).status).toBe(422);
  await sent;
  await expect.poll(() => hosts.last).toBe('close');
});

test('a load test says how long it took, and what the guest says that it used', async () => {
  const answered = load(api.alice, { cpus: 1.5, seconds: 2 });
  await answer('0m0.00s 0m0.00s\n0m2.50s 0m0.50s\n');
  expect(await answered).toMatchObject({ status: 200, body: { kind: 'processors', cpuS: 3, exitCode: 0, message: null } });
  expect(hosts.requests.at(-1)).toMatchObject({ kind: 'pipes', timeoutS: 32 });
  expect(hosts.requests.at(-1)!.argv.slice(4)).toEqual(['processors', '2', '1', '50', '64', '0']);
  const failed = load(api.alice, { kind: 'disk', seconds: 1 });
  await expect.poll(() => hosts.attached).toBeGreaterThan(1);
  hosts.output('no space', { channel: 2 });
  hosts.end(1);
  expect((await failed).body).toMatchObject({ exitCode: 1, message: 'no space', cpuS: null });
});

test('a caller that goes ends its load in the guest', async () => {
  const end = new AbortController();
  const request = fetch(`${api.base}/v1/vms/${vm}/load`, {
    method: 'POST',
    headers: { authorization: `Bearer ${api.alice.key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ seconds: 600 }),
    signal: end.signal,
  });
  await expect.poll(() => hosts.attached).toBe(1);
  end.abort();
  await expect(request).rejects.toThrow();
  await expect.poll(() => hosts.last).toBe('close');
});

test('while it goes on its caller hears of it, so that no silence ends the connection', async () => {
  const request = http.request(`${api.base}/v1/vms/${vm}/load`, {
    method: 'POST',
    headers: { authorization: `Bearer ${api.alice.key}`, 'content-type': 'application/json' },
  });
  const informed = once(request, 'information');
  const answered = once(request, 'response');
  request.end('{}');
  await expect.poll(() => hosts.attached).toBe(1);
  expect(await informed).toMatchObject([{ statusCode: 102 }]);
  hosts.end(0);
  const [response] = (await answered) as [http.IncomingMessage];
  expect(response.statusCode).toBe(200);
  response.resume();
}, 30_000);

test('each is for the owner of a VM that runs and has the program, and is said in an event', async () => {
  expect((await processes(api.bob)).status).toBe(404);
  expect((await load(api.bob, {})).status).toBe(404);
  for (const wrong of [{ kind: 'gpu' }, { cpus: 0 }, { seconds: 3601 }, { startAt: '2099-01-01T00:00:00Z' }, { memoryMiB: 0 }])
    expect((await load(api.alice, wrong)).status).toBe(400);
  expect((await processes(api.alice, '?seconds=11')).status).toBe(400);
  api.workflows.requested.openStream = async () => {
    throw new BerthError('guest-program-missing', 'there is none');
  };
  const { status, body } = await api.call<ProblemBody>(api.alice, 'GET', `/v1/vms/${vm}/processes`);
  expect([status, body.code]).toEqual([409, 'guest-program-missing']);
  const events = await api.ledger.event.count({ where: { type: 'berth.vm.sessionOpened', subject: vm } });
  expect(events).toBeGreaterThan(5);
});
