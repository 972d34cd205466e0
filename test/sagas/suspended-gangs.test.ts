import { afterAll, beforeAll, expect, test } from 'vitest';
import { LeaseData } from '../../model/events.ts';
import type { TaskId } from '../../model/ids.ts';
import { expectEverythingOrNothing } from './everything-or-nothing.ts';
import type { FakeSite } from './fake-site.ts';
import { closeLeaseSite, lateMs, leaseOf, openLeaseSite, reserve, untilTask, week } from './lease-site.ts';

let site: FakeSite;
beforeAll(async () => {
  site = await openLeaseSite();
});
afterAll(() => closeLeaseSite(site));

test('each change of a lease is reported in one event', async () => {
  const work = await site.submit({ command: ['long'], timeoutS: week, nodes: 2 });
  await untilTask(site, work, 'running');
  const promised = await reserve(site, 12, 30);
  expect(await site.ended(promised)).toBe('succeeded');
  expect(await site.ended(work)).toBe('succeeded');
  const reportedOf = async (task: TaskId) => {
    const { id } = await leaseOf(site, task);
    const events = await site.ledger.event.findMany({ where: { subject: id }, orderBy: { seq: 'asc' } });
    for (const { data } of events) expect(LeaseData.parse(data)).toMatchObject({ lease: id, task });
    return events.map(({ type }) => type.split('.').at(-1));
  };
  expect(await reportedOf(promised)).toEqual(['accepted', 'started', 'ended']);
  // For work without a promise, the events of its task report the rest.
  expect(await reportedOf(work)).toEqual(['suspended', 'resumed']);
});

test('work that is suspended can be cancelled', async () => {
  const work = await site.submit({ command: ['endless'], timeoutS: week, nodes: 2 });
  await untilTask(site, work, 'running');
  const promised = await reserve(site, 12, 30, { command: ['endless'], timeoutS: week });
  await site.until('it is suspended', async () => (await leaseOf(site, work)).suspension === 'suspended');
  await site.cancel(work);
  expect(await site.ended(work)).toBe('cancelled');
  await expectEverythingOrNothing(site, work);
  await untilTask(site, promised, 'running');
  expect(await lateMs(site, promised)).toBeLessThan(2000);
  await site.cancel(promised);
  await site.ended(promised);
});
