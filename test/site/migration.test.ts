import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TaskAnswer } from './client.ts';
import { expectNothingLeft, expectOneCompletion, onHost, openSite, type TestSite } from './the-site.ts';

interface MigrationAnswer {
  id: string;
  state: string;
  from: string;
  to: string | null;
  generation: number;
  downtimeMs: number | null;
  bytes: number;
  phases: { name: string; seconds: number | null; bytes: number }[];
  error: { code: string; message: string } | null;
}

let here: TestSite;
beforeAll(async () => {
  here = await openSite();
  // Every host gets the image by running something: a migration copies none.
  const warm = await here.client.submit({ image: 'debian-12', command: ['true'], nodes: 3 });
  expect(new Set((await here.client.over(warm.id)).hosts).size).toBe(3);
});
afterAll(() => here.stop());

/** Counts, five times a second, and writes each number to its disk before it says it. */
const counter = (until: number) => ({
  image: 'debian-12',
  command: [
    'sh',
    '-c',
    `i=0; while [ $i -lt ${until} ]; do i=$((i+1)); echo $i >> numbers; sync numbers; echo $i; sleep 0.2; done`,
  ],
  outputs: ['numbers'],
  resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 },
});

const logOf = async (id: string): Promise<string[]> =>
  (await here.client.insist<string>('GET', `/v1/tasks/${id}/log`)).body.split('\n').filter((line) => line !== '');

async function counting(until: number): Promise<TaskAnswer> {
  const { id } = await here.client.submit(counter(until));
  await expect.poll(async () => (await logOf(id)).length, { timeout: 90_000, interval: 100 }).toBeGreaterThan(3);
  return here.client.task(id);
}

async function move(vm: string, to?: string): Promise<MigrationAnswer> {
  const answer = await here.client.insist<MigrationAnswer>('POST', `/v1/vms/${vm}/migrations`, to === undefined ? {} : { to }, {
    'idempotency-key': crypto.randomUUID(),
  });
  if (answer.status !== 202) throw new Error(`migrate: ${answer.status} ${JSON.stringify(answer.body)}`);
  return answer.body;
}

async function over(id: string, seconds = 150): Promise<MigrationAnswer> {
  const read = async () => (await here.client.insist<MigrationAnswer>('GET', `/v1/migrations/${id}`)).body;
  await expect
    .poll(async () => (await read()).state, { timeout: seconds * 1000, interval: 100 })
    .toSatisfy((state) => state === 'succeeded' || state === 'rolledBack');
  return read();
}

/** Where a domain of this VM runs, by every host's own hypervisor. */
async function runningAt(vm: string): Promise<string[]> {
  const found: string[] = [];
  for (const { id } of here.site.hosts) {
    const names = await onHost(here, id, ['virsh', '-q', 'list', '--all', '--name']);
    if (names.split('\n').some((name) => name.trim() === vm)) found.push(id);
  }
  return found;
}

/** One copy, where the ledger says; then the count goes to its end, in the log and on the disk, with no gap and no repetition. */
async function expectUnharmed(task: TaskAnswer, migration: MigrationAnswer, until: number): Promise<void> {
  const vm = task.vms[0]!;
  const where = migration.state === 'succeeded' ? migration.to : migration.from;
  expect(await runningAt(vm)).toEqual([where]);
  const ended = await here.client.over(task.id);
  expect(ended, JSON.stringify(ended.error)).toMatchObject({ state: 'succeeded', exitCode: 0 });
  const numbers = Array.from({ length: until }, (_, index) => String(index + 1));
  expect(await logOf(task.id)).toEqual(numbers);
  expect((await here.client.download(ended.outputs[0]!.file)).toString().trim().split('\n')).toEqual(numbers);
  await expectNothingLeft(here);
}

test('a VM moves while its command runs, no image is copied, and each host is credited with its part', async () => {
  const task = await counting(80);
  const migration = await over((await move(task.vms[0]!)).id);
  expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', error: null });
  expect(migration.from).toBe(task.hosts[0]);
  expect(migration.downtimeMs).not.toBeNull();
  console.log(
    `downtime ${migration.downtimeMs} ms, ${Math.round(migration.bytes / 2 ** 20)} MiB, ${JSON.stringify(migration.phases)}`,
  );
  await expectUnharmed(task, migration, 80);
  const { usage } = (await expectOneCompletion(here.client, await here.client.task(task.id))) as { usage: { host: string }[] };
  expect(usage.map(({ host }) => host)).toEqual([migration.from, migration.to]);
  const [moved] = (await here.client.eventsOf(task.vms[0]!)).filter(({ type }) => type === 'berth.vm.migrated');
  expect(moved?.data).toMatchObject({ from: { host: migration.from }, to: { host: migration.to } });
});

/** A moment in the course of a migration, which takes about two seconds here: said in the log, to be tried again. */
function moment(): Promise<number> {
  const ms = Math.round(Math.random() * 2000);
  return new Promise((resolve) => setTimeout(() => resolve(ms), ms));
}

const numbers = 60;
test.each([
  ['the source’s worker', ({ from }: MigrationAnswer) => `${from}/worker`],
  ['the target’s worker', ({ to }: MigrationAnswer) => `${to}/worker`],
  ['the control worker', () => 'control'],
])('SIGKILL of %s at a random moment leaves one copy, unharmed', async (what, victim) => {
  const task = await counting(numbers);
  const to = here.site.hosts.map(({ id }) => id).find((id) => id !== task.hosts[0])!;
  const asked = await move(task.vms[0]!, to);
  const ms = await moment();
  const child = here.site.child(victim(asked));
  const restarts = child.restarts();
  child.kill('SIGKILL');
  await child.servesAgain(restarts, 60_000);
  const migration = await over(asked.id);
  console.log(`killed ${what} after ${ms} ms: ${migration.state}, ${JSON.stringify(migration.error)}`);
  await expectUnharmed(task, migration, numbers);
});

test('hosts that lose each other at a random moment leave one copy, unharmed', async () => {
  // Longer than the hosts are apart: a task that ends meanwhile ends its migration.
  const task = await counting(4 * numbers);
  const to = here.site.hosts.find(({ id }) => id !== task.hosts[0])!;
  const asked = await move(task.vms[0]!, to.id);
  const ms = await moment();
  const mend = await here.site.hosts.find(({ id }) => id === asked.from)!.cutOff([to.address]);
  await new Promise((resolve) => setTimeout(resolve, 15_000));
  await mend();
  const migration = await over(asked.id);
  console.log(`cut ${asked.from} off from ${to.id} after ${ms} ms: ${migration.state}, ${JSON.stringify(migration.error)}`);
  await expectUnharmed(task, migration, 4 * numbers);
});
