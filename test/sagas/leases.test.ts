import { afterAll, beforeAll, expect, test } from 'vitest';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import type { FakeSite } from './fake-site.ts';
import { at, closeLeaseSite, lateMs, leaseOf, openLeaseSite, reserve, week } from './lease-site.ts';

let site: FakeSite;
beforeAll(async () => {
  site = await openLeaseSite();
});
afterAll(() => closeLeaseSite(site));

test('a reservation begins at its time, with its VMs booted in advance', async () => {
  const id = await reserve(site, 8, 30);
  expect(await site.ended(id)).toBe('succeeded');
  expect(await lateMs(site, id)).toBeGreaterThanOrEqual(0);
  expect(await lateMs(site, id)).toBeLessThan(2000);
  await expectEverythingOrNothing(site, id);
});

test('a promised lease gets all of its time, and no more', async () => {
  const id = await reserve(site, 8, 3, { command: ['endless'], timeoutS: week });
  expect(await site.ended(id)).toBe('failed');
  const { task } = await rowsOf(site, id);
  expect(task.error).toMatchObject({ code: 'lease-expired' });
  const { endAt } = await leaseOf(site, id);
  expect(Math.abs(task.finishedAt!.getTime() - endAt!.getTime())).toBeLessThan(4000);
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
  const id = await reserve(site, 3600, 60);
  const waiting = await site.submit({ lease: { kind: 'bestEffort', durationS: 7000, preemptible: false }, nodes: 2 });
  await site.until('it waits for the promise', async () => (await site.detailsOf(workflowId.task(waiting))).includes('queued'));
  await site.cancel(id);
  expect(await site.ended(id)).toBe('cancelled');
  expect(await site.ended(waiting)).toBe('succeeded');
});

test('no start is late because control workers are down while a reservation is pending', async () => {
  // A busy machine takes some ten seconds to stop and start them, which is not what this is about.
  const id = await reserve(site, 20, 30);
  await site.stopWorker('control');
  await site.startControl();
  expect(await site.ended(id)).toBe('succeeded');
  expect(await lateMs(site, id)).toBeLessThan(2000);
});
