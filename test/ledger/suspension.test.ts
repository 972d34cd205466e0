import { beforeEach, describe, expect, it } from 'vitest';
import type { Notification } from '../../contracts/ledger.ts';
import { VmRestoredData, VmSuspendedData } from '../../model/events.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import type { Usage } from '../../model/task.ts';
import { accept, addImage, addOwner, empty, failure, hostFacts, outcomeOf, usage, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 100);
  await fixture.activities.registerHost(hostFacts('h1', { vcpus: 2, memoryMiB: 512, diskMiB: 2000 }));
});

const each = { resources: { vcpus: 2, memoryMiB: 512, diskMiB: 100 } };

/** A task whose command runs, and its VM. */
async function running(): Promise<{ task: TaskId; vm: VmId }> {
  const task = await accept(fixture, owner, each);
  const placement = await fixture.activities.reserveTask(task);
  if (!placement.placed) throw new Error('not placed');
  await fixture.activities.advanceTask(task, 'stagingIn', []);
  await fixture.activities.advanceTask(task, 'starting', [], 'creating');
  await fixture.activities.advanceTask(task, 'running', [], 'running');
  return { task, vm: placement.vms[0]!.id };
}

async function suspend(vm: VmId): Promise<Notification[]> {
  await fixture.activities.beginSuspension(vm);
  return fixture.activities.commitSuspension(vm);
}

const rowOf = (vm: VmId) => fixture.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
const eventsOf = (type: string) => fixture.ledger.event.findMany({ where: { type }, orderBy: { seq: 'asc' } });

async function sumsHold(): Promise<number[]> {
  const [host] = await usage(fixture);
  expect(host!.said).toEqual(host!.summed);
  return host!.said;
}

describe('a VM that is suspended', () => {
  it('frees processors and memory for the queue, keeps its disks and its address, and takes space for its memory', async () => {
    const { vm } = await running();
    const next = await accept(fixture, owner, each);
    expect(await fixture.activities.reserveTask(next)).toMatchObject({ placed: false });
    const before = await rowOf(vm);
    const begun = await fixture.activities.beginSuspension(vm);
    expect(begun.vm.generation).toBe(before.generation + 1);
    expect(begun.diskHostAddress).toBeNull();
    expect(await sumsHold()).toEqual([2, 512, 200 + 512]);
    expect(await fixture.activities.commitSuspension(vm)).toEqual([next]);
    expect(await rowOf(vm)).toMatchObject({
      state: 'suspended',
      asleep: true,
      hostId: 'h1',
      homeId: 'h1',
      address: before.address,
    });
    expect(await sumsHold()).toEqual([2, 512, 400 + 512]);
  });

  it('is not restored while others use its capacity, and is once they have ended', async () => {
    const { vm } = await running();
    await suspend(vm);
    const other = await running();
    expect(await failure(fixture.activities.beginRestoration(vm))).toMatchObject({ code: 'no-capacity' });
    expect((await rowOf(vm)).state).toBe('suspended');
    await fixture.activities.releaseVms([other.vm]);
    const begun = await fixture.activities.beginRestoration(vm);
    expect(await fixture.activities.beginRestoration(vm)).toEqual(begun);
    await fixture.activities.commitRestoration(vm);
    await fixture.activities.commitRestoration(vm);
    expect(await rowOf(vm)).toMatchObject({ state: 'running', asleep: false, generation: 3 });
    expect(await sumsHold()).toEqual([2, 512, 200]);
  });

  it('can be removed, and can be stuck, on a host that is full', async () => {
    const { vm } = await running();
    await suspend(vm);
    await running();
    await fixture.activities.setVmState(vm, 'stuck', { code: 'vm-lost', message: 'gone' });
    await fixture.activities.setVmState(vm, 'removing');
    expect(await sumsHold()).toEqual([2, 512, 400 + 512]);
    await fixture.activities.releaseVms([vm]);
    expect(await sumsHold()).toEqual([2, 512, 200]);
  });

  it('has one event for each suspension, with its usage; the end of its task leaves out the suspended time', async () => {
    const { task, vm } = await running();
    const began = fixture.now;
    fixture.now += 10_000;
    await suspend(vm);
    await fixture.activities.commitSuspension(vm);
    fixture.now += 3_600_000;
    await fixture.activities.beginRestoration(vm);
    await fixture.activities.commitRestoration(vm);
    fixture.now += 5_000;
    await suspend(vm);
    const reported = (await eventsOf('berth.vm.suspended')).map(({ data }) => VmSuspendedData.parse(data));
    expect(reported.map(({ usage: [used] }) => [used?.vcpuSeconds, used?.startedAt])).toEqual([
      [20, new Date(began).toISOString()],
      [10, new Date(began + 3_610_000).toISOString()],
    ]);
    expect((await eventsOf('berth.vm.restored')).map(({ data }) => VmRestoredData.parse(data))).toHaveLength(1);
    fixture.now += 1_000_000;
    const end = new Date(fixture.now).toISOString();
    const vms = [{ id: vm, startedAt: new Date(began).toISOString(), endedAt: end }];
    await fixture.activities.finishTask(task, outcomeOf({ state: 'failed', exitCode: null, vms }), []);
    const [ended] = await eventsOf('berth.task.failed');
    const data = ended!.data as unknown as { usage: Usage[]; vcpuSeconds: number };
    expect([data.vcpuSeconds, data.usage.length]).toEqual([30, 2]);
  });

  it('returns to its state when the operation fails', async () => {
    const { vm } = await running();
    const why = { code: 'disk-full', message: 'no room' } as const;
    await fixture.activities.beginSuspension(vm);
    await fixture.activities.rollBackSuspension(vm, why, false);
    await fixture.activities.rollBackSuspension(vm, why, false);
    expect(await rowOf(vm)).toMatchObject({ state: 'running', asleep: false });
    await suspend(vm);
    await fixture.activities.beginRestoration(vm);
    await fixture.activities.rollBackSuspension(vm, why, false);
    expect(await rowOf(vm)).toMatchObject({ state: 'suspended', asleep: true });
    await fixture.activities.beginRestoration(vm);
    await fixture.activities.rollBackSuspension(vm, { code: 'vm-lost', message: 'gone' }, true);
    expect(await rowOf(vm)).toMatchObject({ state: 'stuck', problem: { code: 'vm-lost' } });
    await sumsHold();
  });

  it('has to run first, and must not migrate', async () => {
    const { vm } = await running();
    expect(await failure(fixture.activities.beginRestoration(vm))).toMatchObject({ code: 'conflict' });
    await suspend(vm);
    expect(await failure(fixture.activities.beginSuspension(vm))).toMatchObject({ code: 'conflict' });
    expect(await failure(fixture.activities.beginSuspension('vm_none' as VmId))).toMatchObject({ code: 'not-found' });
  });

  it('needs space on the disk for its memory', async () => {
    const { vm } = await running();
    await fixture.sql(`UPDATE "Host" SET "diskMiB" = 300`);
    expect(await failure(fixture.activities.beginSuspension(vm))).toMatchObject({ code: 'no-capacity' });
    expect((await rowOf(vm)).state).toBe('running');
  });
});
