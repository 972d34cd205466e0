import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TaskAnswer } from '../site/client.ts';
import { expectNothingLeft, onHost, openSite, type TestSite } from '../site/the-site.ts';

interface DrainAnswer {
  id: string;
  host: string;
  state: string;
  deadline: string;
  predictedS: number | null;
  boundS: number | null;
  startedAt: string | null;
  emptiedAt: string | null;
  progress: { moved: number; moving: number; left: number };
  moves: { vm: string; to: string | null; state: string }[];
  remaining: { what: string; why: string }[];
}

let here: TestSite;
beforeAll(async () => {
  here = await openSite();
});
afterAll(() => here.stop());

/** Counts, five times a second, and writes each number to its disk before it says it. */
const counter = {
  image: 'debian-12',
  command: ['sh', '-c', 'i=0; while :; do i=$((i+1)); echo $i >> numbers; sync numbers; echo $i; sleep 0.2; done'],
  resources: { vcpus: 1, memoryMiB: 160, diskMiB: 64 },
  timeoutS: 3600,
  lease: { kind: 'bestEffort', durationS: 7200 },
};

const logOf = async (id: string): Promise<string[]> =>
  (await here.client.insist<string>('GET', `/v1/tasks/${id}/log`)).body.split('\n').filter((line) => line !== '');

/** So many tasks that count, all on one host: the others are closed meanwhile. */
async function countingOn(host: string, count: number): Promise<TaskAnswer[]> {
  const others = here.site.hosts.map(({ id }) => id).filter((id) => id !== host);
  const set = (schedulable: boolean) =>
    Promise.all(others.map((id) => here.operator.insist('PATCH', `/v1/hosts/${id}`, { schedulable })));
  await set(false);
  const tasks = await Promise.all(Array.from({ length: count }, () => here.client.submit(counter)));
  for (const { id } of tasks)
    await expect.poll(async () => (await logOf(id)).length, { timeout: 200_000, interval: 200 }).toBeGreaterThan(1);
  await set(true);
  return Promise.all(tasks.map(({ id }) => here.client.task(id)));
}

const after = (seconds: number): string => new Date(Date.now() + seconds * 1000).toISOString();

async function drain(host: string, deadline: string, more: object = {}): Promise<DrainAnswer> {
  const headers = { 'idempotency-key': crypto.randomUUID() };
  const answer = await here.operator.insist<DrainAnswer>('POST', `/v1/hosts/${host}/drains`, { deadline, ...more }, headers);
  if (answer.status !== 202) throw new Error(`drain: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
}

/** By the earliest time that it is promised for, which a refusal says, and a little more. */
async function drainSoon(host: string, moreMs: number, order: object): Promise<DrainAnswer> {
  const path = `/v1/hosts/${host}/drains`;
  const hurried = await here.operator.insist<{ code: string; detail: string }>('POST', path, { deadline: after(1), ...order });
  expect([hurried.status, hurried.body.code]).toEqual([409, 'drain-impossible']);
  const earliest = Date.parse(/The earliest is (\S+Z)\./.exec(hurried.body.detail)![1]!);
  return drain(host, new Date(earliest + moreMs).toISOString(), order);
}

const read = async (id: string): Promise<DrainAnswer> =>
  (await here.operator.insist<DrainAnswer>('GET', `/v1/drains/${id}`)).body;

async function until(id: string, states: string[], seconds = 120): Promise<DrainAnswer> {
  await expect
    .poll(async () => (await read(id)).state, { timeout: seconds * 1000, interval: 100 })
    .toSatisfy((state) => states.includes(state));
  return read(id);
}

/** What each host's own hypervisor has. */
async function domainsOf(host: string): Promise<string[]> {
  const names = await onHost(here, host, ['virsh', '-q', 'list', '--all', '--name']);
  return names.split('\n').filter((name) => name.trim() !== '');
}

/** Every count goes on, with no gap and no repetition; then it is ended, and nothing is left of it. */
async function expectUnharmed(tasks: TaskAnswer[]): Promise<void> {
  for (const { id } of tasks) {
    const before = (await logOf(id)).length;
    await expect.poll(async () => (await logOf(id)).length, { timeout: 60_000, interval: 200 }).toBeGreaterThan(before + 5);
    const log = await logOf(id);
    expect(log).toEqual(log.map((_, index) => String(index + 1)));
    await here.client.insist('DELETE', `/v1/tasks/${id}`);
  }
  for (const { id } of tasks) expect((await here.client.over(id)).state).toBe('cancelled');
  await expectNothingLeft(here);
}

test('a host is empty by its deadline, though the control worker is killed in the middle, and no command notices', async () => {
  const [host, ...others] = here.site.hosts.map(({ id }) => id) as [string, ...string[]];
  const tasks = await countingOn(host, 3);
  const vms = tasks.flatMap((task) => task.vms);
  const asked = await drainSoon(host, 10_000, { confidence: 0.9 });
  expect(asked.state).toBe('waiting');
  await until(asked.id, ['moving']);
  const control = here.site.child('control');
  const restarts = control.restarts();
  control.kill('SIGKILL');
  await control.servesAgain(restarts, 60_000);
  const ended = await until(asked.id, ['empty', 'incomplete']);
  expect(ended, JSON.stringify(ended)).toMatchObject({
    state: 'empty',
    remaining: [],
    progress: { moved: 3, moving: 0, left: 0 },
  });
  const tookS = (Date.parse(ended.emptiedAt!) - Date.parse(ended.startedAt!)) / 1000;
  console.log(
    `predicted ${ended.predictedS?.toFixed(1)} s, at most ${ended.boundS?.toFixed(1)} s, took ${tookS.toFixed(1)} s; ${((Date.parse(ended.deadline) - Date.parse(ended.emptiedAt!)) / 1000).toFixed(1)} s before its deadline`,
  );
  expect(await domainsOf(host)).toEqual([]);
  const counts = await Promise.all(others.map(async (id) => (await domainsOf(id)).filter((name) => vms.includes(name)).length));
  expect(counts.toSorted()).toEqual([1, 2]);
  const loads = await here.operator.insist<DrainAnswer>('GET', `/v1/drains/${asked.id}`);
  expect(new Set(loads.body.moves.map(({ to }) => to))).toEqual(new Set(others));
  await expectUnharmed(tasks);
  await here.operator.insist('PATCH', `/v1/hosts/${host}`, { schedulable: true, acceptsMigrations: true });
});

test('a drain that is called off in the middle brings back who has left', async () => {
  const host = here.site.hosts[1]!.id;
  const tasks = await countingOn(host, 2);
  const asked = await drainSoon(host, 5000, { strategy: 'sequential' });
  await expect.poll(async () => (await read(asked.id)).progress.moved, { timeout: 120_000, interval: 50 }).toBeGreaterThan(0);
  const cancelled = await here.operator.insist('POST', `/v1/drains/${asked.id}/cancel`, { goBack: true });
  expect(cancelled.status).toBe(202);
  const ended = await until(asked.id, ['cancelled', 'empty']);
  expect(ended.state).toBe('cancelled');
  expect((await domainsOf(host)).toSorted()).toEqual(tasks.flatMap(({ vms }) => vms).toSorted());
  await expectUnharmed(tasks);
});
