import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FakeRun } from '../../drivers/fake/host.ts';
import { workflowId } from '../../model/temporal.ts';
import { expectEmptySite, expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';

const week = 7 * 24 * 3600;
const done: FakeRun = { exitCode: 0, durationMs: 50, log: 'done\n', files: { 'out/result': 'done\n' } };

/** Two hosts, each with capacity for two VMs of one vCPU. */
let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({
    hosts: 2,
    capacity: { vcpus: 2, memoryMiB: 65_536, diskMiB: 262_144 },
    run: (env, [program]) => {
      if (program === 'endless') return { ...done, durationMs: endless };
      if (program === 'firstFails') return env.BERTH_NODE === '0' ? { ...done, exitCode: 7 } : { ...done, durationMs: endless };
      return done;
    },
  });
});
afterAll(async () => {
  await expectEmptySite(site);
  await site.stop();
});

const runs = (id: Awaited<ReturnType<FakeSite['submit']>>) => async () => (await rowsOf(site, id)).task.state === 'running';
const detailsHave = (id: Awaited<ReturnType<FakeSite['submit']>>, text: string) => async () =>
  (await site.detailsOf(workflowId.task(id))).includes(text);

test('the nodes of a gang run side by side, and each leaves its outputs', async () => {
  const id = await site.submit({ nodes: 3 });
  expect(await site.ended(id)).toBe('succeeded');
  await expectEverythingOrNothing(site, id);
  const { task } = await rowsOf(site, id);
  expect((task.outputs as { node: number }[]).map(({ node }) => node)).toEqual([0, 1, 2]);
});

test('one node that fails stops the others, and all outputs are stored', async () => {
  const id = await site.submit({ nodes: 2, command: ['firstFails'], timeoutS: week, outputs: [] });
  expect(await site.ended(id)).toBe('failed');
  await expectEverythingOrNothing(site, id);
  expect((await rowsOf(site, id)).task).toMatchObject({ exitCode: 7, error: { code: 'command-failed' } });
});

test('one node that cannot be created undoes the whole gang', async () => {
  const id = await site.accept({ nodes: 2 });
  site.faults.plan(workflowId.task(id), { name: 'ensureRunning', nth: 2 }, 'refusedAfter');
  await site.start(id);
  expect(await site.ended(id)).toBe('failed');
  await expectEverythingOrNothing(site, id);
});

test('a gang waits until there is capacity for all of it, and reports why; then it is notified', async () => {
  const first = await site.submit({ command: ['endless'], timeoutS: week });
  await site.until('the first runs', runs(first));
  const gang = await site.submit({ nodes: 4 });
  await site.until('the gang says why it waits', detailsHave(gang, 'queued'));
  expect((await rowsOf(site, gang)).vms.map((vm) => vm.state)).toEqual(['pending', 'pending', 'pending', 'pending']);
  const since = Date.now();
  await site.cancel(first);
  expect(await site.ended(gang)).toBe('succeeded');
  // By a signal, not by the poll, whose interval is a minute at a site and twelve seconds here.
  expect(Date.now() - since).toBeLessThan(10_000);
  await expectEverythingOrNothing(site, first);
  await expectEverythingOrNothing(site, gang);
});

test('a task is cancelled while it is queued', async () => {
  const first = await site.submit({ nodes: 4, command: ['endless'], timeoutS: week });
  await site.until('the first runs', runs(first));
  const second = await site.submit();
  await site.until('the second waits', detailsHave(second, 'queued'));
  await site.cancel(second);
  expect(await site.ended(second)).toBe('cancelled');
  await expectEverythingOrNothing(site, second);
  await site.cancel(first);
  await site.ended(first);
});

test('twelve tasks share the capacity of four, and capacity is never exceeded', async () => {
  const ids = await Promise.all(Array.from({ length: 12 }, () => site.submit()));
  let most = 0;
  const watching = setInterval(() => {
    most = Math.max(most, ...site.hosts.map((host) => host.domains.size));
  }, 2);
  expect(await Promise.all(ids.map((id) => site.ended(id)))).toEqual(ids.map(() => 'succeeded'));
  clearInterval(watching);
  expect(most).toBeGreaterThan(0);
  expect(most).toBeLessThanOrEqual(2);
  for (const id of ids) await expectEverythingOrNothing(site, id);
});
