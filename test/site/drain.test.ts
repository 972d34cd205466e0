import { afterAll, beforeAll, expect, test } from 'vitest';
import { drainSoon, expectUnharmed, gatherOn, secondsFrom, untilDrain } from './drains.ts';
import { copiesOf, counter, countsPast } from './moves.ts';
import { onHost, openSite, type TestSite } from './the-site.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openSite();
});
afterAll(() => here.stop());

test('a host is empty by its deadline and by all accounts, and no command on it has noticed', async () => {
  const [host, ...others] = here.site.hosts.map(({ id }) => id) as [string, ...string[]];
  const tasks = await gatherOn(here, host, [counter(100_000, 160), counter(100_000, 160)]);
  const vms = tasks.flatMap((task) => task.vms);
  for (const { id } of tasks) await countsPast(here, id, 3);
  const asked = await drainSoon(here, host, 10_000);
  const drain = await untilDrain(here, asked.id);
  expect(drain, JSON.stringify(drain)).toMatchObject({
    state: 'empty',
    remaining: [],
    progress: { moved: 2, moving: 0, left: 0 },
  });
  expect(secondsFrom(drain.emptiedAt!, drain.deadline)).toBeGreaterThanOrEqual(0);
  console.log(
    `predicted ${drain.predictedS?.toFixed(1)} s, at most ${drain.boundS?.toFixed(1)} s, took ${secondsFrom(drain.startedAt!, drain.emptiedAt!).toFixed(1)} s; empty ${secondsFrom(drain.emptiedAt!, drain.deadline).toFixed(1)} s before its deadline`,
  );
  expect((await onHost(here, host, ['virsh', '-q', 'list', '--all', '--name'])).trim()).toBe('');
  const copies = await Promise.all(vms.map((vm) => copiesOf(here, vm)));
  expect(copies.map((found) => found.map(({ state }) => state))).toEqual(vms.map(() => ['running']));
  expect(new Set(copies.flatMap((found) => found.map((copy) => copy.host)))).toEqual(new Set(others));
  await expectUnharmed(here, tasks, 3);
});
