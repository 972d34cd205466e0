import { once } from 'node:events';
import http from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { crowded, setSchedulable } from '../drains.ts';
import { removeVm, startVm } from '../reach/berth.ts';
import { vmOf, warm } from '../subjects.ts';
import { openSite, type TestSite } from '../the-site.ts';

/**
 * The experiment of Zacharski's thesis on real VMs: five under load on one of three hosts. Each host's guests may keep a part of a
 * processor busy, so that the host is overloaded though the machine is not. Each VM keeps a part of a processor busy for that part of
 * each second, one after the other, so that there is no moment without one.
 */

const hostProcessors = 0.65;
const vmProcessors = 0.35;
const guests = 5;
const phaseMs = 1000 / guests;
const limits = { decisionS: 10, movedS: 15, gain: 0.25 };
/** Without a move after the first ones; ten minutes with BERTH_CALM_S=600. */
const calmS = Number(process.env.BERTH_CALM_S ?? 150);

let here: TestSite;
let vms: string[];
let others: string[];
beforeAll(async () => {
  here = await openSite(3, crowded, 0, hostProcessors);
  await warm(here);
  others = here.site.hosts.map(({ id }) => id).slice(1);
  await here.operator.callWithRetry('PATCH', '/v1/balancer', { heartbeatS: 1 });
  await setSchedulable(here, others, false);
  vms = [];
  for (let n = 1; n <= guests; n += 1)
    vms.push(await startVm(here, `load-${n}`, { resources: { vcpus: 1, memoryMiB: 160, diskMiB: 64 } }));
  await setSchedulable(here, others, true);
  await calm();
}, 900_000);
afterAll(async () => {
  for (const vm of vms ?? []) await removeVm(here, vm);
  await here.stop();
}, 300_000);

interface BusyHost {
  host: string;
  at: string;
  load: { use: number; steal: number };
}

/** Until all hosts have little to do: templates are made after the first boots. */
async function calm(): Promise<void> {
  const untilMs = Date.now() + 300_000;
  for (let calmRounds = 0; calmRounds < 10; await delay(1000)) {
    const { body } = await here.operator.callWithRetry<{ items: BusyHost[] }>('GET', '/v1/top/hosts');
    const isCalm = body.items.length === 3 && body.items.every(({ load }) => load.use < 0.3);
    calmRounds = isCalm ? calmRounds + 1 : 0;
    if (Date.now() > untilMs) throw new Error(`the hosts do not become calm: ${JSON.stringify(body.items)}`);
  }
}

interface Decision {
  id: string;
  at: string;
  state: string;
  outcome: string;
  why: string | null;
  moves: { vm: string; to: string; predictedCpus: number }[];
}

const decisions = async (): Promise<Decision[]> =>
  (await here.operator.callWithRetry<{ items: Decision[] }>('GET', '/v1/balancer/decisions?limit=100')).body.items;

interface Migration {
  id: string;
  vm: string;
  state: string;
  startedAt: string | null;
  finishedAt: string | null;
}

const migrations = async (): Promise<Migration[]> =>
  (await here.client.callWithRetry<{ items: Migration[] }>('GET', '/v1/migrations?limit=100')).body.items;

/** Not by fetch, which waits five minutes for an answer and no longer. */
async function post(path: string, json: object): Promise<{ status: number; body: object }> {
  const request = http.request(new URL(path, here.site.ready.api), {
    method: 'POST',
    headers: { authorization: `Bearer ${here.key}`, 'content-type': 'application/json' },
  });
  request.end(JSON.stringify(json));
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  return { status: response.statusCode!, body: JSON.parse(await text(response)) as object };
}

/** Loads all of them from a moment on, each a phase after the one before. @returns when it begins, and its end */
function load(seconds: number): { fromMs: number; ended: Promise<unknown> } {
  const fromMs = Date.now() + 5000;
  const ended = Promise.all(
    vms.map(async (vm, n) => {
      const json = { kind: 'processors', cpus: vmProcessors, seconds, startAt: new Date(fromMs + n * phaseMs).toISOString() };
      return post(`/v1/vms/${vm}/load`, json);
    }),
  );
  return { fromMs, ended };
}

/** What all of them got, in processors, over an interval. */
async function givenCpus(fromMs: number, toMs: number): Promise<number> {
  const query = new URLSearchParams({ from: new Date(fromMs).toISOString(), to: new Date(toMs).toISOString(), step: '1' });
  const rates = await Promise.all(
    vms.map(async (vm) => {
      const path = `/v1/vms/${vm}/metrics?${query}`;
      const { body } = await here.client.callWithRetry<{ points: { cpus: number; seconds: number }[] }>('GET', path);
      const seconds = body.points.reduce((sum, point) => sum + point.seconds, 0);
      return body.points.reduce((sum, { cpus, seconds: of }) => sum + cpus * of, 0) / Math.max(1, seconds);
    }),
  );
  return rates.reduce((sum, rate) => sum + rate, 0);
}

test("a guest's own view has its processes", async () => {
  const { status, body } = await here.client.callWithRetry<{ items: { name: string }[] }>(
    'GET',
    `/v1/vms/${vms[0]}/processes?limit=1000`,
  );
  expect(status).toBe(200);
  expect(body.items.map(({ name }) => name)).toContain('berth-stream');
}, 60_000);

test('a spike of 8 s moves nothing', async () => {
  await here.operator.callWithRetry('PATCH', '/v1/balancer', { mode: 'auto' });
  // Hosts follow within ten seconds.
  await delay(11_000);
  const { ended } = load(8);
  expect(await ended).toMatchObject(vms.map(() => ({ status: 200, body: { exitCode: 0 } })));
  await delay(20_000);
  expect((await decisions()).filter(({ moves }) => moves.length > 0)).toEqual([]);
  expect(await migrations()).toEqual([]);
}, 120_000);

test(
  'an overload is decided about in 10 s, VMs have moved in 15, the rates rise as predicted, and then nothing moves',
  async () => {
    await calm();
    const { fromMs, ended } = load(calmS + 90);
    const untilMs = fromMs + 60_000;
    let moved: Migration[] = [];
    while (Date.now() < untilMs) {
      moved = await migrations();
      if (moved.length > 0 && moved.every(({ finishedAt }) => finishedAt !== null)) break;
      await delay(250);
    }
    const decision = (await decisions()).findLast(({ moves }) => moves.length > 0);
    const seconds = (at: string | null | undefined) => (at == null ? null : (Date.parse(at) - fromMs) / 1000);
    const lastMoved = moved
      .map(({ finishedAt }) => finishedAt ?? '')
      .toSorted()
      .at(-1);
    const decidedMs = Date.parse(decision?.at ?? '');
    const before = await givenCpus(fromMs + 2000, decidedMs);
    await delay(Math.max(0, Date.parse(lastMoved ?? '') + 64_000 - Date.now()));
    const after = await givenCpus(Date.parse(lastMoved ?? '') + 2000, Date.parse(lastMoved ?? '') + 62_000);
    const predicted = decision?.moves.reduce((sum, { predictedCpus }) => sum + predictedCpus, 0) ?? 0;
    const measured = {
      decidedS: seconds(decision?.at),
      movedS: seconds(lastMoved),
      before,
      after,
      predicted,
      moves: decision?.moves,
    };
    console.log(`experiment ${JSON.stringify(measured)}`);
    expect(moved.map(({ state }) => state)).toEqual(decision?.moves.map(() => 'succeeded'));
    await delay(Math.max(0, Date.parse(lastMoved ?? '') + calmS * 1000 - Date.now()));
    expect(await migrations()).toHaveLength(moved.length);
    expect(await ended).toMatchObject(vms.map(() => ({ status: 200, body: { exitCode: 0 } })));
    for (const { vm, to } of decision?.moves ?? []) expect((await vmOf(here, vm)).host).toBe(to);
    // The overload begins when all of them are under load, a second after the first.
    expect(measured.decidedS).toBeLessThanOrEqual(limits.decisionS + 1);
    expect(measured.movedS).toBeLessThanOrEqual(limits.movedS + 1);
    expect(after - before).toBeGreaterThanOrEqual(predicted * (1 - limits.gain));
    expect(after - before).toBeLessThanOrEqual(predicted * (1 + limits.gain));
  },
  (calmS + 300) * 1000,
);
