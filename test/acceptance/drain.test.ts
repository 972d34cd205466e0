import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TaskAnswer } from '../site/client.ts';
import { crowded, drainSoon, expectUnharmed, gatherOn, openAgain, secondsFrom, untilDrain } from '../site/drains.ts';
import { counter, countsPast } from '../site/moves.ts';
import { onHost, openSite, type TestSite } from '../site/the-site.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openSite(3, crowded);
});
afterAll(() => here.stop());

/** The number of tasks that count, all on one host. */
async function countingOn(host: string, count: number): Promise<TaskAnswer[]> {
  const specs = Array.from({ length: count }, () => counter(100_000, 160));
  const tasks = await gatherOn(here, host, specs);
  for (const { id } of tasks) await countsPast(here, id, 1, 200);
  return tasks;
}

/** The domains of each host, by its own hypervisor. */
async function domainsOf(host: string): Promise<string[]> {
  const names = await onHost(here, host, ['virsh', '-q', 'list', '--all', '--name']);
  return names.split('\n').filter((name) => name.trim() !== '');
}

test('eight VMs leave their host by its deadline, though the control worker is killed, and no target gets more than its share', async () => {
  const [host, ...others] = here.site.hosts.map(({ id }) => id) as [string, ...string[]];
  const tasks = await countingOn(host, 8);
  const vms = tasks.flatMap((task) => task.vms);
  const requested = await drainSoon(here, host, 10_000, { strategy: 'parallel' });
  expect(requested.state).toBe('waiting');
  await untilDrain(here, requested.id, ({ state }) => state === 'moving');
  const control = here.site.child('control');
  const restarts = control.restarts();
  control.kill('SIGKILL');
  await control.untilReadyAgain(restarts, 60_000);
  const drain = await untilDrain(here, requested.id);
  expect(drain, JSON.stringify(drain)).toMatchObject({
    state: 'empty',
    remaining: [],
    progress: { moved: 8, moving: 0, left: 0 },
  });
  console.log(
    `predicted ${drain.predictedS?.toFixed(1)} s, at most ${drain.boundS?.toFixed(1)} s, took ${secondsFrom(drain.startedAt!, drain.emptiedAt!).toFixed(1)} s; empty ${secondsFrom(drain.emptiedAt!, drain.deadline).toFixed(1)} s before its deadline`,
  );
  expect(await domainsOf(host)).toEqual([]);
  const counts = await Promise.all(others.map(async (id) => (await domainsOf(id)).filter((name) => vms.includes(name)).length));
  expect(counts).toEqual([4, 4]);
  await expectUnharmed(here, tasks, 5);
  await openAgain(here, host);
});

test('a drain that is cancelled in the middle moves back the VMs that have left', async () => {
  const host = here.site.hosts[1]!.id;
  const tasks = await countingOn(host, 2);
  const requested = await drainSoon(here, host, 5000, { strategy: 'sequential' });
  await untilDrain(here, requested.id, ({ progress }) => progress.moved > 0);
  const cancelled = await here.operator.callWithRetry('POST', `/v1/drains/${requested.id}/cancel`, { goBack: true });
  expect(cancelled.status).toBe(202);
  const ended = await untilDrain(here, requested.id);
  expect(ended.state).toBe('cancelled');
  expect((await domainsOf(host)).toSorted()).toEqual(tasks.flatMap(({ vms }) => vms).toSorted());
  await expectUnharmed(here, tasks, 5);
});
