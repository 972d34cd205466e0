import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FakeRun } from '../../drivers/fake/host.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import { LeaseData } from '../../model/events.ts';
import type { TaskId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { expectEmptySite, expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import { addressOf, endless, type FakeSite, openFakeSite } from './fake-site.ts';

const done: FakeRun = { exitCode: 0, durationMs: 50, log: 'done\n', files: { 'out/result': 'done\n' } };
const week = 7 * 24 * 3600;
/** In the time of the fakes, a fiftieth of it in real time. */
const long = { ...done, durationMs: 600_000 };

/** Two hosts, each with capacity for one VM. */
let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({
    hosts: 2,
    capacity: { vcpus: 1, memoryMiB: 65_536, diskMiB: 262_144 },
    run: (_, [program]) => {
      if (program === 'endless') return { ...done, durationMs: endless };
      return program === 'long' ? long : done;
    },
  });
  await site.startPlanner();
  // The costs of leases are measured with these tasks, and are lower than their initial estimates.
  for (let n = 0; n < 3; n += 1) expect(await site.ended(await site.submit())).toBe('succeeded');
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
});
afterAll(async () => {
  await expectEmptySite(site);
  await site.stop();
});

const at = (inS: number): string => new Date(Date.now() + inS * 1000).toISOString();
const reserve = (inS: number, durationS: number, more: object = {}) =>
  site.submit({ nodes: 2, lease: { kind: 'reservation', startAt: at(inS), durationS }, ...more });
const leaseOf = async (id: TaskId) => {
  const { lease } = await site.ledger.task.findUniqueOrThrow({ where: { id }, include: { lease: true } });
  return lease;
};
const isIn = (id: TaskId, state: string) => async () => (await rowsOf(site, id)).task.state === state;
const until = (id: TaskId, state: string) => site.until(`${id} is ${state}`, isIn(id, state));

/** The delay between the promised start of a task and the start of its command. */
async function lateMs(id: TaskId): Promise<number> {
  const { task } = await rowsOf(site, id);
  return task.startedAt!.getTime() - (await leaseOf(id)).startAt!.getTime();
}

test('a reservation begins at its time, with its VMs booted in advance', async () => {
  const id = await reserve(8, 30);
  expect(await site.ended(id)).toBe('succeeded');
  expect(await lateMs(id)).toBeGreaterThanOrEqual(0);
  expect(await lateMs(id)).toBeLessThan(2000);
  await expectEverythingOrNothing(site, id);
});

test('a promised lease gets all of its time, and no more', async () => {
  const id = await reserve(8, 3, { command: ['endless'], timeoutS: week });
  expect(await site.ended(id)).toBe('failed');
  const { task } = await rowsOf(site, id);
  expect(task.error).toMatchObject({ code: 'lease-expired' });
  const { endAt } = await leaseOf(id);
  expect(Math.abs(task.finishedAt!.getTime() - endAt!.getTime())).toBeLessThan(4000);
});

test('work in the way is suspended, and resumes afterwards: each command is started once', async () => {
  const works = [
    await site.submit({ command: ['long'], timeoutS: week }),
    await site.submit({ command: ['long'], timeoutS: week }),
  ];
  for (const id of works) await until(id, 'running');
  const promised = await reserve(12, 30);
  await site.until('they are suspended', async () =>
    (await Promise.all(works.map(leaseOf))).every((lease) => lease.suspension === 'suspended'),
  );
  expect(await site.ended(promised)).toBe('succeeded');
  expect(await lateMs(promised)).toBeLessThan(2000);
  expect(await Promise.all(works.map((id) => site.ended(id)))).toEqual(['succeeded', 'succeeded']);
  for (const id of [promised, ...works]) await expectEverythingOrNothing(site, id);
  for (const id of works) {
    const { vms } = await rowsOf(site, id);
    expect(await leaseOf(id)).toMatchObject({ suspensions: 1, suspension: null });
    expect(site.hosts.map((host) => host.jobsStarted.get(vms[0]!.id) ?? 0).reduce((a, b) => a + b)).toBe(1);
  }
});

test('each change of a lease is reported in one event', async () => {
  const work = await site.submit({ command: ['long'], timeoutS: week, nodes: 2 });
  await until(work, 'running');
  const promised = await reserve(12, 30);
  expect(await site.ended(promised)).toBe('succeeded');
  expect(await site.ended(work)).toBe('succeeded');
  const reportedOf = async (task: TaskId) => {
    const { id } = await leaseOf(task);
    const events = await site.ledger.event.findMany({ where: { subject: id }, orderBy: { seq: 'asc' } });
    for (const { data } of events) expect(LeaseData.parse(data)).toMatchObject({ lease: id, task });
    return events.map(({ type }) => type.split('.').at(-1));
  };
  expect(await reportedOf(promised)).toEqual(['accepted', 'started', 'ended']);
  // For work without a promise, the events of its task report the rest.
  expect(await reportedOf(work)).toEqual(['suspended', 'resumed']);
});

test('suspended work resumes on another host when that has capacity sooner', async () => {
  const [first, second] = [
    await site.submit({ command: ['long'], timeoutS: week }),
    await site.submit({ command: ['endless'], timeoutS: week, lease: { kind: 'bestEffort', preemptible: false } }),
  ];
  for (const id of [first!, second!]) await until(id, 'running');
  const promised = await site.submit({
    command: ['endless'],
    timeoutS: week,
    lease: { kind: 'reservation', startAt: at(12), durationS: 3600 },
  });
  await site.until('it is suspended', async () => (await leaseOf(first!)).suspension === 'suspended');
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

test('a VM without a task exists from its promised start, and is removed when its time is over', async () => {
  const image = await site.publishImage();
  const order = VmRequest.parse({ name: 'promised', image, lease: { kind: 'reservation', startAt: at(10), durationS: 4 } });
  const accepted = { owner: site.owner, order, nowMs: Date.now() };
  const id = await site.ledger.$transaction((tx) => acceptVm(tx, accepted));
  const workflow = { taskQueue: controlQueue, workflowId: workflowId.vm(id), args: [id, site.pace] };
  const handle = await site.client.workflow.start(workflowType.vm, workflow);
  await handle.result();
  const row = await site.ledger.vm.findUniqueOrThrow({ where: { id }, include: { lease: true } });
  const { id: lease, startAt, endAt } = row.lease!;
  expect(row).toMatchObject({ state: 'removed', problem: { code: 'lease-expired' } });
  expect(row.startedAt!.getTime()).toBeLessThan(startAt!.getTime());
  expect(row.endedAt!.getTime()).toBeGreaterThanOrEqual(endAt!.getTime());
  const events = await site.ledger.event.findMany({ where: { subject: lease }, orderBy: { seq: 'asc' } });
  expect(events.map(({ type }) => type)).toEqual(['berth.lease.accepted', 'berth.lease.started', 'berth.lease.ended']);
});

test('a reservation that is cancelled releases its hosts', async () => {
  const id = await reserve(3600, 60);
  const waiting = await site.submit({ lease: { kind: 'bestEffort', durationS: 7000, preemptible: false }, nodes: 2 });
  await site.until('it waits for the promise', async () => (await site.detailsOf(workflowId.task(waiting))).includes('queued'));
  await site.cancel(id);
  expect(await site.ended(id)).toBe('cancelled');
  expect(await site.ended(waiting)).toBe('succeeded');
});

test('work that is suspended can be cancelled', async () => {
  const work = await site.submit({ command: ['endless'], timeoutS: week, nodes: 2 });
  await until(work, 'running');
  const promised = await reserve(12, 30, { command: ['endless'], timeoutS: week });
  await site.until('it is suspended', async () => (await leaseOf(work)).suspension === 'suspended');
  await site.cancel(work);
  expect(await site.ended(work)).toBe('cancelled');
  await expectEverythingOrNothing(site, work);
  await until(promised, 'running');
  expect(await lateMs(promised)).toBeLessThan(2000);
  await site.cancel(promised);
  await site.ended(promised);
});

test('no start is late because control workers are down while a reservation is pending', async () => {
  const id = await reserve(10, 30);
  await site.stopWorker('control');
  await site.startControl();
  expect(await site.ended(id)).toBe('succeeded');
  expect(await lateMs(id)).toBeLessThan(2000);
});
