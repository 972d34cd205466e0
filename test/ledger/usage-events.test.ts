import { beforeAll, expect, it } from 'vitest';
import { recordDueUsage } from '../../ledger/market/record-usage.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { UsageRecordedData, usageRecordedType } from '../../model/books/usage-event.ts';
import { TaskEndedData, VmRemovedData } from '../../model/events.ts';
import type { VmId } from '../../model/ids.ts';
import { BilledSite, virtualMiB } from './billed-site.ts';
import { addImage, addOwner, hostFacts, outcomeOf, useLedger } from './ledger-fixture.ts';

/** Usage of what lives long, told while it goes on. Nothing has a price here. */

const fixture = useLedger();
const site = new BilledSite(fixture);
const hour = 3_600_000;
const large = { vcpus: 100, memoryMiB: 400_000, diskMiB: 400_000 };
let owner: string;

beforeAll(async () => {
  await addImage(fixture, 'debian-12', virtualMiB);
  await fixture.activities.registerHost(hostFacts('a', large, { provider: 'north' }));
  owner = await addOwner(fixture);
});

const record = () => recordDueUsage(fixture.ledger, () => fixture.now);
const recorded = async (subject: string) =>
  (await fixture.ledger.event.findMany({ where: { subject, type: usageRecordedType }, orderBy: { time: 'asc' } })).map(
    ({ data }) => UsageRecordedData.parse(data),
  );
const ended = async (subject: string, type: string) =>
  (await fixture.ledger.event.findFirstOrThrow({ where: { subject, type } })).data;
const finish = (vm: VmId) => fixture.activities.finishVm(vm, { endedAt: new Date(fixture.now).toISOString(), error: null });

it('is recorded every hour, once, in intervals without a gap, whose sum is what the end says', async () => {
  const vm = await site.runningVm(owner);
  const startedMs = fixture.now;
  fixture.now += hour - 1;
  expect(await record()).toBe(0);
  fixture.now += 1;
  await Promise.all(Array.from({ length: 5 }, record));
  fixture.now += hour / 2;
  await fixture.activities.beginSuspension(vm);
  await fixture.activities.commitSuspension(vm);
  fixture.now += hour / 2;
  await record();
  fixture.now += 3 * hour + 17;
  await record();
  await fixture.activities.beginRestoration(vm);
  await fixture.activities.commitRestoration(vm);
  await fixture.activities.registerHost(hostFacts('b', large, { provider: 'south' }));
  const order = { vm, to: 'b', coldFallback: false, requestedBy: 'test', reason: null, nowMs: fixture.now };
  const migration = await fixture.ledger.$transaction((tx) => acceptMigration(tx, order));
  await fixture.activities.reserveMigration(migration);
  fixture.now += hour / 4;
  await fixture.activities.commitMigration(migration, { downtimeMs: 1, bytes: 1, phases: [] });
  fixture.now += hour * 0.75;
  await record();
  await finish(vm);
  const all = await recorded(vm);
  expect(all.map(({ from }) => from)).toEqual([new Date(startedMs).toISOString(), ...all.slice(0, -1).map(({ until }) => until)]);
  expect(
    all.map(({ usage }) => usage.map(({ provider, vcpuSeconds, diskMiBSeconds }) => [provider, vcpuSeconds, diskMiBSeconds])),
  ).toEqual([
    [['north', 3600, 3600 * 1024]],
    [['north', 1800, 3600 * 1024]],
    [['north', 0, 10_800.017 * 1024]],
    [
      ['north', 900, 900 * 1024],
      ['south', 2700, 2700 * 1024],
    ],
  ]);
  const removed = VmRemovedData.parse(await ended(vm, 'berth.vm.removed'));
  const sum = (of: 'vcpuSeconds' | 'memoryMiBSeconds' | 'diskMiBSeconds') =>
    all.flatMap(({ usage }) => usage).reduce((total, one) => total + Math.round(one[of] * 1000), 0) / 1000;
  expect([removed.vcpuSeconds, removed.memoryMiBSeconds, removed.diskMiBSeconds]).toEqual([
    sum('vcpuSeconds'),
    sum('memoryMiBSeconds'),
    sum('diskMiBSeconds'),
  ]);
  fixture.now += 5 * hour;
  expect(await record()).toBe(0);
});

it('has the disks of stopped VMs and of tasks, and ends with them', async () => {
  const vm = await site.runningVm(owner);
  const task = await site.runningTask(owner, { nodes: 2 });
  const from = new Date(fixture.now).toISOString();
  await fixture.activities.recordVmMissing(vm, { code: 'powered-off', message: 'off' });
  fixture.now += hour * 2;
  expect(await record()).toBe(3);
  expect(
    (await recorded(vm)).map(({ usage }) => usage.map(({ vcpuSeconds, diskMiBSeconds }) => [vcpuSeconds, diskMiBSeconds > 0])),
  ).toEqual([[[1, true]]]);
  const vms = (await fixture.ledger.vm.findMany({ where: { taskId: task } })).map(({ id }) => ({
    id: id as VmId,
    startedAt: from,
    endedAt: new Date(fixture.now).toISOString(),
  }));
  await fixture.activities.advanceTask(task, 'stagingOut', [], 'removing');
  await fixture.activities.finishTask(task, outcomeOf({ vms }), []);
  expect(TaskEndedData.parse(await ended(task, 'berth.task.succeeded'))).toMatchObject({ diskMiBSeconds: 2 * 7200 * 1024 });
  fixture.now += 3 * hour;
  expect(await record()).toBe(1);
});
