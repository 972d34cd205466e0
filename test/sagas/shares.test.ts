import { afterAll, expect, test } from 'vitest';
import { newId, type TaskId } from '../../model/ids.ts';
import { hostLimits } from '../../workers/host-limits.ts';
import { fullTest } from '../full-test.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';

const week = 7 * 24 * 3600;
/** One more than a host worker had slots. */
const sleepers = 257;

let site: FakeSite | null = null;
afterAll(() => site?.stop());

const openSite = () =>
  openFakeSite({
    hosts: 1,
    capacity: { vcpus: 512, memoryMiB: 512 * 512, diskMiB: 2 ** 20 },
    run: (_, [program]) => ({ exitCode: 0, durationMs: program === 'sleep' ? endless : 1, log: '', files: {} }),
  });

test('a host worker has a slot for each of more commands than a host has VMs', () => {
  expect(hostLimits.maxConcurrentActivityTaskExecutions).toBeGreaterThan(8 * sleepers);
});

fullTest(
  `${sleepers} sleeping commands of one owner keep neither another's task nor their own removal waiting`,
  async () => {
    site = await openSite();
    const { ledger } = site;
    const image = await site.publishImage();
    const order = { image, outputs: [], timeoutS: week, lease: { kind: 'bestEffort', durationS: week } };
    const asleep: TaskId[] = [];
    for (let index = 0; index < sleepers; index += 1) asleep.push(await site.submit({ ...order, command: ['sleep'] }));
    const host = site.hosts[0]!;
    await site.until('all of them sleep', async () => host.jobsStarted.size === sleepers, 400_000);
    const startedMs = Date.now();
    const other = newId('owner');
    await ledger.owner.create({ data: { id: other, name: other } });
    const task = await site.submit({ ...order, command: ['work'] });
    await ledger.task.update({ where: { id: task }, data: { ownerId: other } });
    expect(await site.ended(task)).toBe('succeeded');
    await site.cancel(asleep[0]!);
    expect(await site.ended(asleep[0]!)).toBe('cancelled');
    expect(Date.now() - startedMs).toBeLessThan(60_000);
  },
  600_000,
);
