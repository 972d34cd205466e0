import { afterAll, beforeAll, expect, test } from 'vitest';
import { expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import type { FakeSite } from './fake-site.ts';
import { at, closeLeaseSite, lateMs, leaseOf, openLeaseSite, reserve, untilTask, week } from './lease-site.ts';

let site: FakeSite;
beforeAll(async () => {
  site = await openLeaseSite();
});
afterAll(() => closeLeaseSite(site));

test('work in the way is suspended, and resumes afterwards: each command is started once', async () => {
  const works = [
    await site.submit({ command: ['long'], timeoutS: week }),
    await site.submit({ command: ['long'], timeoutS: week }),
  ];
  for (const id of works) await untilTask(site, id, 'running');
  const promised = await reserve(site, 12, 30);
  await site.until('they are suspended', async () =>
    (await Promise.all(works.map((id) => leaseOf(site, id)))).every((lease) => lease.suspension === 'suspended'),
  );
  expect(await site.ended(promised)).toBe('succeeded');
  expect(await lateMs(site, promised)).toBeLessThan(2000);
  expect(await Promise.all(works.map((id) => site.ended(id)))).toEqual(['succeeded', 'succeeded']);
  for (const id of [promised, ...works]) await expectEverythingOrNothing(site, id);
  for (const id of works) {
    const { vms } = await rowsOf(site, id);
    expect(await leaseOf(site, id)).toMatchObject({ suspensions: 1, suspension: null });
    expect(site.hosts.map((host) => host.jobsStarted.get(vms[0]!.id) ?? 0).reduce((a, b) => a + b)).toBe(1);
  }
});

test('suspended work resumes on another host when that has capacity sooner', async () => {
  const [first, second] = [
    await site.submit({ command: ['long'], timeoutS: week }),
    await site.submit({ command: ['endless'], timeoutS: week, lease: { kind: 'bestEffort', preemptible: false } }),
  ];
  for (const id of [first!, second!]) await untilTask(site, id, 'running');
  const promised = await site.submit({
    command: ['endless'],
    timeoutS: week,
    lease: { kind: 'reservation', startAt: at(12), durationS: 3600 },
  });
  await site.until('it is suspended', async () => (await leaseOf(site, first!)).suspension === 'suspended');
  const before = (await rowsOf(site, first!)).vms[0]!.hostId;
  await site.cancel(second!);
  expect(await site.ended(first!)).toBe('succeeded');
  const { vms } = await rowsOf(site, first!);
  expect(vms[0]!.hostId).not.toBe(before);
  const moves = await site.ledger.migration.findMany({ where: { vmId: vms[0]!.id } });
  expect(moves).toMatchObject([
    { state: 'succeeded', mode: 'cold', requestedBy: 'planner', fromId: before, toId: vms[0]!.hostId },
  ]);
  expect(site.hosts.map((host) => host.jobsStarted.get(vms[0]!.id) ?? 0).reduce((a, b) => a + b)).toBe(1);
  await expectEverythingOrNothing(site, first!);
  await site.cancel(promised);
  for (const id of [second!, promised]) await site.ended(id);
});

test('work that is cancelled while it is suspended has the outputs that it wants to keep', async () => {
  const work = await site.submit({ command: ['checkpoints'], timeoutS: week, nodes: 2, keepOutputs: true });
  await untilTask(site, work, 'running');
  const promised = await reserve(site, 12, 30, { command: ['endless'], timeoutS: week });
  await site.until('it is suspended', async () => (await leaseOf(site, work)).suspension === 'suspended');
  await site.cancel(work);
  expect(await site.ended(work)).toBe('cancelled');
  const { task } = await rowsOf(site, work);
  expect(task).toMatchObject({ error: null, exitCode: null, skippedOutputsCount: 0 });
  expect(task.outputs).toMatchObject([0, 1].map((node) => ({ path: 'out/checkpoint', node, sizeBytes: 10 })));
  await expectEverythingOrNothing(site, work);
  // It was never restored for that: what has its place begins in time.
  await untilTask(site, promised, 'running');
  expect(await lateMs(site, promised)).toBeLessThan(2000);
  await site.cancel(promised);
  await site.ended(promised);
});
