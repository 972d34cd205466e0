import fc from 'fast-check';
import { beforeAll, expect, it } from 'vitest';
import { recordDueUsage } from '../../ledger/market/record-usage.ts';
import { readUsageLines } from '../../ledger/usage/read-usage-lines.ts';
import { recordDueOwnerUsage } from '../../ledger/usage/record-owner-usage.ts';
import { TaskEndedData, VmRemovedData } from '../../model/events.ts';
import { newId, type TaskId, type VmId } from '../../model/ids.ts';
import { type UsageLine, usageCloudEvent } from '../../model/money/usage-lines.ts';
import { BilledSite, resources, virtualMiB } from './billed-site.ts';
import { addImage, addOwner, hex64, hostFacts, outcomeOf, useLedger, useMeterClock } from './ledger-fixture.ts';

/** Usage as it is exported: read from a cursor, each moment once. */

const fixture = useLedger();
const site = new BilledSite(fixture);
const hour = 3_600_000;
const large = { vcpus: 1000, memoryMiB: 4_000_000, diskMiB: 4_000_000 };
let setMeterClock: (ms: number) => Promise<unknown>;

beforeAll(async () => {
  setMeterClock = await useMeterClock(fixture);
  await addImage(fixture, 'debian-12', virtualMiB);
  await fixture.activities.registerHost(hostFacts('a', large, { provider: 'north' }));
});

async function readAll(owner: string | null, limit = 3): Promise<UsageLine[]> {
  const lines: UsageLine[] = [];
  for (let after: bigint | null = null; ; ) {
    const page = await readUsageLines(fixture.ledger, owner, { after, limit });
    lines.push(...page.lines);
    after = page.next;
    if (!page.more) return lines;
  }
}

async function endTask(task: TaskId, from: number): Promise<void> {
  const rows = await fixture.ledger.vm.findMany({ where: { taskId: task } });
  const vms = rows.map(({ id }) => ({
    id: id as VmId,
    startedAt: new Date(from).toISOString(),
    endedAt: new Date(fixture.now).toISOString(),
  }));
  await fixture.activities.advanceTask(task, 'stagingOut', [], 'removing');
  await fixture.activities.finishTask(task, outcomeOf({ vms }), []);
}

const fields = ['vcpuSeconds', 'memoryMiBSeconds', 'diskMiBSeconds'] as const;
const sumOf = (lines: readonly UsageLine[], field: (typeof fields)[number]): number =>
  lines.reduce((total, line) => total + Math.round(line[field] * 1000), 0) / 1000;

it('has all usage once: what ends by hourly events or by that of its end, for random lives', async () => {
  const life = fc.record({
    kind: fc.constantFrom('vm', 'task', 'gang'),
    ms: fc.integer({ min: 1, max: 4 * hour }),
    suspendedMs: fc.option(fc.integer({ min: 1, max: 3 * hour })),
    rounds: fc.integer({ min: 0, max: 3 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(life, { minLength: 1, maxLength: 3 }), async (lives) => {
      const owner = await addOwner(fixture, site.fresh('exported'));
      for (const { kind, ms, suspendedMs, rounds } of lives) {
        const id =
          kind === 'vm' ? await site.runningVm(owner) : await site.runningTask(owner, { nodes: kind === 'gang' ? 2 : 1 });
        const startedMs = fixture.now;
        for (let n = 0; n <= rounds; n += 1) {
          fixture.now += Math.floor(ms / (rounds + 1));
          await recordDueUsage(fixture.ledger, () => fixture.now);
        }
        if (kind === 'vm' && suspendedMs !== null) {
          await fixture.activities.beginSuspension(id as VmId);
          await fixture.activities.commitSuspension(id as VmId);
          fixture.now += suspendedMs;
          await recordDueUsage(fixture.ledger, () => fixture.now);
          fixture.now += 1;
        }
        if (kind === 'vm')
          await fixture.activities.finishVm(id as VmId, { endedAt: new Date(fixture.now).toISOString(), error: null });
        else await endTask(id as TaskId, startedMs);
        const { data } = await fixture.ledger.event.findFirstOrThrow({
          where: { subject: id, type: { in: ['berth.vm.removed', 'berth.task.succeeded'] } },
        });
        const ended = kind === 'vm' ? VmRemovedData.parse(data) : TaskEndedData.parse(data);
        const all = await readAll(owner);
        const own = all.filter(({ vm, task }) => (kind === 'vm' ? vm === id : task === id));
        for (const field of fields) expect([field, sumOf(own, field)]).toEqual([field, ended[field]]);
        expect(new Set(own.map((line) => line.id)).size).toBe(own.length);
        for (const vm of new Set(own.map((line) => line.vm))) {
          const times = own.filter((line) => line.vm === vm);
          expect(times.slice(1).map(({ from }) => from)).toEqual(times.slice(0, -1).map(({ until }) => until));
          expect(times[0]!.from).toBe(new Date(startedMs).toISOString());
        }
      }
      expect((await readAll(owner, 1000)).length).toBe((await readAll(owner, 1)).length);
    }),
    { numRuns: Number(process.env.BERTH_PROPERTY_RUNS ?? 10) },
  );
});

it('has files and ports, and is of its owner; as a CloudEvent its subject is who pays', async () => {
  const [owner, other] = [await addOwner(fixture, 'one'), await addOwner(fixture, 'other')];
  await setMeterClock(fixture.now);
  await fixture.ledger.file.create({
    data: { id: newId('file'), ownerId: owner, name: 'f', state: 'ready', sizeBytes: 10n, sha256: hex64 },
  });
  // Counted from here on: the owner's meter began at its own creation.
  fixture.now += 2 * hour;
  await setMeterClock(fixture.now);
  await recordDueOwnerUsage(fixture.ledger);
  expect(await readAll(other)).toEqual([]);
  const [line] = await readAll(owner);
  expect(line).toMatchObject({ owner, vm: null, provider: null, repositoryByteSeconds: 72_000, vcpuSeconds: 0 });
  expect(usageCloudEvent(line!)).toMatchObject({
    specversion: '1.0',
    type: 'berth.usage.owner',
    subject: owner,
    time: line!.until,
    data: { repositoryByteSeconds: 72_000, portSeconds: 0 },
  });
  expect((await readAll(null)).filter((one) => one.owner === owner)).toEqual([line]);
  const vm = await site.runningVm(owner);
  fixture.now += 1000;
  await fixture.activities.finishVm(vm, { endedAt: new Date(fixture.now).toISOString(), error: null });
  const last = (await readAll(owner)).at(-1)!;
  expect(usageCloudEvent(last)).toMatchObject({
    id: `${vm}/berth.vm.removed/${vm}/north`,
    type: 'berth.usage.vm',
    subject: owner,
    data: { vm, task: null, provider: 'north', vcpuSeconds: 1, diskMiBSeconds: resources.diskMiB + virtualMiB },
  });
});
