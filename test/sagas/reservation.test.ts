import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { acceptReservation, type ReservationRequest } from '../../ledger/reservations/accept-reservation.ts';
import type { ImageId, TaskId, VmId } from '../../model/ids.ts';
import type { ReservationId, ReservationState } from '../../model/reservation.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { expectEmptySite, expectEverythingOrNothing } from './everything-or-nothing.ts';
import { addressOf, endless, type FakeSite, openFakeSite } from './fake-site.ts';

vi.setConfig({ testTimeout: 240_000 });

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({
    run: () => ({ exitCode: 0, durationMs: endless, log: 'done\n', files: { 'out/result': 'done\n' } }),
  });
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
});
afterAll(() => site.stop());
let tasks: TaskId[] = [];
afterEach(async () => {
  for (const id of tasks) await site.cancel(id);
  for (const id of tasks) await site.ended(id);
  for (const id of tasks) await expectEverythingOrNothing(site, id);
  tasks = [];
  await expectEmptySite(site);
});

const week = 7 * 24 * 3600;

/** A task that runs on a host: it is placed where its image is. */
async function runningOn(host: string): Promise<VmId> {
  const there = site.hosts.find(({ id }) => id === host)!;
  const image: ImageId = await site.publishImage();
  there.images.set(image, { boots: true, pinnedUntilMs: 0 });
  await site.ledger.hostImage.create({ data: { hostId: host, imageId: image } });
  const task = await site.submit({ image, timeoutS: week, lease: { kind: 'bestEffort', durationS: week } });
  tasks.push(task);
  const row = () => site.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
  await site.until(
    'it runs',
    async () => {
      const { id, state } = await row();
      return state === 'running' && (there.jobsStarted.get(id) ?? 0) === 1;
    },
    60_000,
  );
  return (await row()).id as VmId;
}

async function reserve(more: Partial<ReservationRequest> & Pick<ReservationRequest, 'wanted'>): Promise<ReservationId> {
  const nowMs = Date.now();
  const times = { startAtMs: nowMs + 3600_000, endAtMs: nowMs + 7200_000, nowMs };
  const order = { ...times, purpose: 'burn-in', returnVms: false, owner: site.owner, ...more };
  return site.ledger.$transaction((tx) => acceptReservation(tx, order));
}

/** Starts its workflow; its time comes at once, whatever was promised. */
async function begin(id: ReservationId, lastsMs: number): Promise<() => Promise<ReservationState>> {
  const workflow = workflowId.reservation(id);
  const options = { taskQueue: controlQueue, workflowId: workflow, args: [id, 0.2] };
  const handle = await site.client.workflow.start(workflowType.reservation, options);
  const [startAt, endAt] = [new Date(Date.now() + 50_000), new Date(Date.now() + 50_000 + lastsMs)];
  await site.ledger.hostReservation.update({ where: { id }, data: { startAt, endAt } });
  await handle.signal(signalName.orderChanged);
  await site.until('its hosts are being emptied', async () => (await rowOf(id)).state === 'vacating');
  // Earlier than the start of its plan.
  const soon = { startAt: new Date(), endAt: new Date(Date.now() + lastsMs) };
  await site.ledger.hostReservation.update({ where: { id }, data: soon });
  for (const { drainId, hostId } of (await rowOf(id)).holds) {
    const data = { deadline: soon.startAt, returnAfter: soon.endAt };
    const begun = async () => (await site.ledger.drain.findUniqueOrThrow({ where: { id: drainId! } })).workflowAt !== null;
    await site.until('its drain has begun', begun);
    const { number } = await site.ledger.drain.update({ where: { id: drainId! }, data });
    await site.client.workflow.getHandle(workflowId.drain(hostId as never, number)).signal(signalName.orderChanged);
  }
  return () => handle.result() as Promise<ReservationState>;
}

const rowOf = (id: ReservationId) => site.ledger.hostReservation.findUniqueOrThrow({ where: { id }, include: { holds: true } });
const hostOf = async (vm: VmId) => (await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).hostId;
async function eventsOf(id: ReservationId): Promise<string[]> {
  const events = await site.ledger.event.findMany({ where: { subject: id }, orderBy: { seq: 'asc' } });
  return events.map(({ type }) => type.replace('berth.reservation.', ''));
}
async function expectOpen(): Promise<void> {
  expect(await site.ledger.host.count({ where: { schedulable: true, acceptsMigrations: true } })).toBe(site.hosts.length);
  expect(await site.ledger.hostHold.count({ where: { released: false } })).toBe(0);
}

test('a host is emptied for it, handed over, returned at its end, and its VM moves back', async () => {
  const vm = await runningOn('host-1');
  const id = await reserve({ wanted: { hosts: ['host-1'] }, returnVms: true });
  const over = await begin(id, 8000);
  await site.until('it is handed over', async () => (await rowOf(id)).state === 'active');
  expect(site.hosts[0]!.domains.size).toBe(0);
  expect(await hostOf(vm)).not.toBe('host-1');
  expect(await over()).toBe('ended');
  expect(await hostOf(vm)).toBe('host-1');
  expect(await eventsOf(id)).toEqual(['accepted', 'started', 'ended']);
  await expectOpen();
});

test('when the site chooses, it takes the host that costs nothing to vacate', async () => {
  await runningOn('host-1');
  await runningOn('host-2');
  const id = await reserve({ wanted: { nodes: 1 } });
  expect((await rowOf(id)).holds.map(({ hostId }) => hostId)).toEqual(['host-3']);
  const over = await begin(id, 1000);
  expect(await over()).toBe('ended');
  await expectOpen();
});

test('cancelled while its host is being emptied, it opens the host', async () => {
  const vm = await runningOn('host-1');
  const id = await reserve({ wanted: { hosts: ['host-1'] }, returnVms: true });
  const over = await begin(id, 60_000);
  await site.ledger.hostReservation.update({ where: { id }, data: { cancelRequestedAt: new Date() } });
  await site.client.workflow.getHandle(workflowId.reservation(id)).signal(signalName.orderChanged);
  expect(await over()).toBe('cancelled');
  await site.until('its VM is back', async () => (await hostOf(vm)) === 'host-1');
  expect((await eventsOf(id)).at(-1)).toBe('cancelled');
  await expectOpen();
});

test('one whose host can’t be emptied in the end fails, reports why, and opens what it had closed', async () => {
  const vm = await runningOn('host-1');
  const id = await reserve({ wanted: { hosts: ['host-1'] } });
  await site.ledger.host.updateMany({ where: { id: { not: 'host-1' } }, data: { acceptsMigrations: false } });
  const options = { taskQueue: controlQueue, workflowId: workflowId.reservation(id), args: [id, 0.2] };
  const handle = await site.client.workflow.start(workflowType.reservation, options);
  await site.ledger.hostReservation.update({ where: { id }, data: { startAt: new Date(Date.now() + 30_000) } });
  await handle.signal(signalName.orderChanged);
  expect(await handle.result()).toBe('failed');
  expect(JSON.stringify((await rowOf(id)).problem)).toContain(`${vm}: no host can take it`);
  expect((await eventsOf(id)).at(-1)).toBe('failed');
  await site.ledger.host.updateMany({ data: { acceptsMigrations: true } });
  expect(await hostOf(vm)).toBe('host-1');
  await expectOpen();
});
