import { beforeEach, describe, expect, it } from 'vitest';
import { acceptOperation, acceptVm } from '../../ledger/vms/accept-vm.ts';
import { VmRemovedData, VmStoppedData } from '../../model/events.ts';
import type { VmId } from '../../model/ids.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { accept, addImage, addOwner, empty, failure, fetched, hostFacts, usage, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
let owner: string;
let made = 0;

beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture, 'debian-12', 100);
  await fixture.activities.registerHost(hostFacts('h1', { vcpus: 2, memoryMiB: 1024, diskMiB: 4000 }));
});

async function acceptAlone(more: Record<string, unknown> = {}): Promise<VmId> {
  made += 1;
  fixture.now += 1000;
  const resources = { vcpus: 2, memoryMiB: 512, diskMiB: 100 };
  const order = VmRequest.parse({ name: `vm-${made}`, image: 'debian-12', resources, ...more });
  const nowMs = fixture.now;
  return fixture.ledger.$transaction((tx) => acceptVm(tx, { owner, order, nowMs }));
}

async function running(more: Record<string, unknown> = {}): Promise<VmId> {
  const id = await acceptAlone(more);
  expect(await fixture.activities.reserveVm(id)).toMatchObject({ placed: true });
  await fixture.activities.setVmState(id, 'creating');
  await fixture.activities.recordVmStarted(id, new Date(fixture.now).toISOString(), { kind: 'warm' });
  return id;
}

const rowOf = (id: VmId) => fixture.ledger.vm.findUniqueOrThrow({ where: { id } });
const eventsOf = async (id: VmId) =>
  (await fixture.ledger.event.findMany({ where: { subject: id }, orderBy: { seq: 'asc' } })).map(({ type, data }) => ({
    type,
    data,
  }));
const ask = (id: VmId, operation: Parameters<typeof acceptOperation>[2]) =>
  fixture.ledger.$transaction((tx) => acceptOperation(tx, id, operation, fixture.now));

describe('standalone VMs', () => {
  it('wait in one queue with tasks, oldest first, and are notified of their placement', async () => {
    const first = await running();
    const second = await acceptAlone();
    const task = await accept(fixture, owner, { resources: { vcpus: 2, memoryMiB: 512, diskMiB: 100 } });
    expect(await fixture.activities.reserveVm(second)).toMatchObject({ placed: false, refusal: { failed: { vcpus: 1 } } });
    expect((await rowOf(second)).refusal).toEqual({ hosts: 1, failed: { vcpus: 1 } });
    expect(await fixture.activities.reserveTask(task)).toMatchObject({ placed: false });
    expect(await fixture.activities.finishVm(first, { endedAt: null, error: null })).toEqual([second]);
    expect(await rowOf(second)).toMatchObject({ state: 'reserved', generation: 1, refusal: null });
    expect(await fixture.activities.finishVm(second, { endedAt: null, error: null })).toEqual([task]);
    for (const { said, summed } of await usage(fixture)) expect(said).toEqual(summed);
  });

  it('count their root disk and swap as well as their data disk', async () => {
    await running({ rootMiB: 1000, swapMiB: 50 });
    expect((await usage(fixture))[0]?.said).toEqual([2, 512, 100 + 1000 + 50]);
    expect(await failure(acceptAlone({ rootMiB: 4000 }))).toMatchObject({ code: 'does-not-fit' });
  });

  it('have one event of their removal, with their whole usage, whatever happened in between', async () => {
    const id = await running();
    const began = fixture.now;
    fixture.now += 1000;
    await fixture.activities.recordVmMissing(id, { code: 'vm-lost', message: 'off' });
    await fixture.activities.recordVmMissing(id, { code: 'vm-lost', message: 'off' });
    fixture.now += 50_000;
    const { vm } = await fixture.activities.beginStart(id);
    expect(vm.generation).toBe(2);
    await fixture.activities.recordVmStarted(id, new Date(fixture.now).toISOString(), { kind: 'cold', why: 'used-disk' });
    fixture.now += 2000;
    const end = { endedAt: new Date(fixture.now).toISOString(), error: null };
    await fixture.activities.finishVm(id, end);
    await fixture.activities.finishVm(id, end);
    const events = await eventsOf(id);
    expect(events.map(({ type }) => type.replace('berth.vm.', ''))).toEqual([
      'created',
      'started',
      'stopped',
      'started',
      'removed',
    ]);
    expect(VmStoppedData.parse(events[2]?.data).usage.map(({ vcpuSeconds }) => vcpuSeconds)).toEqual([2]);
    const removed = VmRemovedData.parse(events[4]?.data);
    expect([removed.startedAt, removed.vcpuSeconds, removed.usage.length]).toEqual([new Date(began).toISOString(), 6, 2]);
  });

  it('never ran, and used nothing, where they were removed before', async () => {
    const id = await acceptAlone();
    await fixture.activities.finishVm(id, { endedAt: null, error: null });
    const [, removed] = await eventsOf(id);
    expect(VmRemovedData.parse(removed?.data)).toMatchObject({ host: null, startedAt: null, usage: [], vcpuSeconds: 0 });
  });

  it('accept one operation at a time', async () => {
    const id = await running();
    const answers = await Promise.allSettled([ask(id, 'pause'), ask(id, 'suspend'), ask(id, 'reboot')]);
    expect(answers.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected', 'rejected']);
    const { operation } = await rowOf(id);
    await fixture.activities.endOperation(id, operation!, null, null);
    expect((await rowOf(id)).operation).toBeNull();
    // The step that ended it is repeated after another operation was requested.
    const next = operation === 'reboot' ? 'suspend' : 'reboot';
    await ask(id, next);
    await fixture.activities.endOperation(id, operation!, null, null);
    expect((await rowOf(id)).operation).toBe(next);
    await fixture.sql(`UPDATE "Vm" SET "removalRequestedAt" = now() WHERE id = $1`, [id]);
    expect(await failure(ask(id, 'pause'))).toMatchObject({ code: 'conflict' });
  });

  it('leave a measurement of each requested suspension and restoration', async () => {
    const id = await running();
    for (const [operation, seconds] of [
      ['suspend', 3],
      ['restore', 2],
    ] as const) {
      await ask(id, operation);
      if (operation === 'suspend') await fixture.activities.beginSuspension(id);
      else await fixture.activities.beginRestoration(id);
      fixture.now += seconds * 1000;
      if (operation === 'suspend') await fixture.activities.commitSuspension(id);
      else await fixture.activities.commitRestoration(id);
      await fixture.activities.endOperation(id, operation, null, null);
    }
    const rows = await fixture.ledger.measurement.findMany({ orderBy: { at: 'asc' } });
    expect(rows.map(({ kind, fromId, toId, seconds, concurrency }) => [kind, fromId, toId, seconds, concurrency])).toEqual([
      ['suspend', 'h1', 'h1', 3, 1],
      ['resume', 'h1', 'h1', 2, 1],
    ]);
  });

  it('are found by housekeeping when their workflow was not notified', async () => {
    const idle = await running({ resources: { vcpus: 1, memoryMiB: 128, diskMiB: 16 } });
    const [unstarted, wanted] = [await acceptAlone(), await acceptAlone()];
    for (const id of [idle, wanted]) await fixture.activities.loadVmDesired(id);
    await fixture.sql(`UPDATE "Vm" SET "removalRequestedAt" = $2 WHERE id = $1`, [wanted, new Date(fixture.now)]);
    fixture.now += 30_000;
    expect((await fixture.activities.listVmsToNotify(20)).map(({ id }) => id).toSorted()).toEqual([unstarted, wanted].toSorted());
  });

  it('have names that all guests of their owner can resolve, and no others', async () => {
    const first = await running({ name: 'harbour', resources: { vcpus: 1, memoryMiB: 128, diskMiB: 16 } });
    const stranger = await addOwner(fixture, 'bob');
    const resources = { vcpus: 1, memoryMiB: 128, diskMiB: 16 };
    const mine = await fixture.activities.reserveTask(await accept(fixture, owner, { resources }));
    const names = async (placement: typeof mine) =>
      placement.placed ? (await fetched(fixture, placement.vms[0]!, 'vm')).vm.neighbours.map(({ name }) => name) : [];
    expect(await names(mine)).toEqual(['node0', 'harbour']);
    await fixture.activities.finishVm(first, { endedAt: null, error: null });
    expect(await names(await fixture.activities.reserveTask(await accept(fixture, stranger, { resources })))).toEqual(['node0']);
  });
});
