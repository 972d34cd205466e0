import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TaskAnswer } from './client.ts';
import { copiesOf, counting, countsPast, faultOf, type MigrationAnswer, move, moveOver, numbersOf } from './moves.ts';
import { expectNothingLeft, expectOneCompletion, onHost, openSite, type TestSite } from './the-site.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openSite();
  // Every host gets the image by running something: a migration copies none.
  const warm = await here.client.submit({ image: 'debian-12', command: ['true'], nodes: 3 });
  expect(new Set((await here.client.over(warm.id)).hosts).size).toBe(3);
});
afterAll(() => here.stop());

const numbersIn = async (file: string): Promise<string[]> => (await here.client.download(file)).toString().trim().split('\n');

/** One copy, where the ledger says; then the count goes to its end, in the log and on the disk, with no gap and no repetition. */
async function expectUnharmed(task: TaskAnswer, migration: MigrationAnswer, until: number): Promise<void> {
  const vm = task.vms[0]!;
  const where = migration.state === 'succeeded' ? migration.to : migration.from;
  expect(await copiesOf(here, vm)).toEqual([{ host: where, state: 'running' }]);
  const ended = await here.client.over(task.id);
  expect(ended, JSON.stringify(ended.error)).toMatchObject({ state: 'succeeded', exitCode: 0 });
  for (const numbers of [await numbersOf(here, task.id), await numbersIn(ended.outputs[0]!.file)]) {
    expect(numbers).toHaveLength(until);
    expect(faultOf(numbers)).toBeNull();
  }
  await expectNothingLeft(here);
}

test('a VM moves while its command runs, no image is copied, and each host is credited with its part', async () => {
  const task = await counting(here, 80);
  const migration = await moveOver(here, (await move(here, task.vms[0]!)).id);
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
  const task = await counting(here, numbers);
  const to = here.site.hosts.map(({ id }) => id).find((id) => id !== task.hosts[0])!;
  const asked = await move(here, task.vms[0]!, { to });
  const ms = await moment();
  const child = here.site.child(victim(asked));
  const restarts = child.restarts();
  child.kill('SIGKILL');
  await child.servesAgain(restarts, 60_000);
  const migration = await moveOver(here, asked.id);
  console.log(`killed ${what} after ${ms} ms: ${migration.state}, ${JSON.stringify(migration.error)}`);
  await expectUnharmed(task, migration, numbers);
});

test('hosts that lose each other at a random moment leave one copy, unharmed', async () => {
  // Longer than the hosts are apart: a task that ends meanwhile ends its migration.
  const task = await counting(here, 4 * numbers);
  const to = here.site.hosts.find(({ id }) => id !== task.hosts[0])!;
  const asked = await move(here, task.vms[0]!, { to: to.id });
  const ms = await moment();
  const mend = await here.site.hosts.find(({ id }) => id === asked.from)!.cutOff([to.address]);
  await new Promise((resolve) => setTimeout(resolve, 15_000));
  await mend();
  const migration = await moveOver(here, asked.id);
  console.log(`cut ${asked.from} off from ${to.id} after ${ms} ms: ${migration.state}, ${JSON.stringify(migration.error)}`);
  await expectUnharmed(task, migration, 4 * numbers);
});

test('the disks follow a VM that moved, while it runs, and the host that it left keeps nothing of it', async () => {
  const task = await counting(here, 150);
  const vm = task.vms[0]!;
  const migration = await moveOver(here, (await move(here, vm, { moveDisk: true })).id);
  expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', error: null });
  expect(migration.phases.map(({ name }) => name)).toContain('moveDisk');
  console.log(JSON.stringify(migration.phases));
  const { home, host } = (await here.client.insist<{ home: string; host: string }>('GET', `/v1/vms/${vm}`)).body;
  expect([home, host]).toEqual([migration.to, migration.to]);
  await expect.poll(() => onHost(here, migration.from, ['ls', '/var/lib/berth/vms'])).not.toContain(vm);
  await expectUnharmed(task, migration, 150);
});

test('a VM goes to another host as files, and back, and on the way back only what changed is carried', async () => {
  const task = await counting(here, 200);
  const vm = task.vms[0]!;
  const there = await moveOver(here, (await move(here, vm, { mode: 'cold', moveDisk: true })).id);
  expect(there, JSON.stringify(there)).toMatchObject({ state: 'succeeded', mode: 'cold', error: null });
  await countsPast(here, task.id, (await numbersOf(here, task.id)).length + 3);
  const back = await moveOver(here, (await move(here, vm, { mode: 'cold', moveDisk: true, to: there.from })).id);
  expect(back, JSON.stringify(back)).toMatchObject({ state: 'succeeded', to: there.from });
  const mib = (bytes: number) => (bytes / 2 ** 20).toFixed(1);
  console.log(
    `${mib(there.bytes)} MiB there, ${mib(back.bytes)} MiB back; stood still for ${there.downtimeMs} and ${back.downtimeMs} ms; ${JSON.stringify(there.phases)}`,
  );
  expect(back.bytes).toBeLessThan(there.bytes / 2);
  const { home, host } = (await here.client.insist<{ home: string; host: string }>('GET', `/v1/vms/${vm}`)).body;
  expect([home, host]).toEqual([there.from, there.from]);
  await expectUnharmed(task, back, 200);
});
