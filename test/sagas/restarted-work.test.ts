import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import { acceptReservation } from '../../ledger/reservations/accept-reservation.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import { controlQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { imageRow, startBuild } from './build-site.ts';
import { tracesOf } from './everything-or-nothing.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';

vi.setConfig({ testTimeout: 240_000 });

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({ run: () => ({ exitCode: 0, durationMs: endless, log: '', files: {} }) });
});
afterAll(() => site.stop());

const hour = 3_600_000;
const statusOf = async (id: string) => (await site.client.workflow.getHandle(id).describe()).status.name;
const start = (type: string, id: string, ...args: unknown[]) =>
  site.client.workflow.start(type, { taskQueue: controlQueue, workflowId: id, args: [...args, site.pace] });

/** One of each kind of work, under way. @returns the VM, and the ids of all workflows */
async function workOfEachKind(): Promise<{ vm: VmId; workflows: string[] }> {
  const nowMs = Date.now();
  const order = VmRequest.parse({ name: 'vm-1', image: await site.publishImage() });
  const vm = await site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order, nowMs }));
  await start(workflowType.vm, workflowId.vm(vm), vm);
  const row = () => site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
  await site.until('the VM runs', async () => (await row()).hostKey !== null);
  const { hostId } = await row();
  const [reserved, drained] = site.hosts.filter(({ id }) => id !== hostId).map(({ id }) => id as HostId);
  const wanted = { wanted: { hosts: [reserved!] }, startAtMs: nowMs + 10 * hour, endAtMs: nowMs + 11 * hour };
  const reservation = await site.ledger.$transaction((tx) =>
    acceptReservation(tx, { ...wanted, purpose: 'a test', returnVms: false, owner: site.owner, nowMs }),
  );
  await start(workflowType.reservation, workflowId.reservation(reservation), reservation);
  const way = { strategy: 'auto', mode: 'auto', moveDisks: false, suspendInPlace: 'never', confidence: 0.99 } as const;
  const times = { deadlineMs: nowMs + 5 * hour, returnAfterMs: nowMs + 6 * hour, nowMs };
  const drain = await site.ledger.$transaction((tx) =>
    acceptDrain(tx, { ...way, ...times, host: drained!, returnVms: false, owner: site.owner, reason: null }),
  );
  const { number } = await site.ledger.drain.findUniqueOrThrow({ where: { id: drain } });
  const drainWorkflow = workflowId.drain(drained!, number);
  await start(workflowType.drain, drainWorkflow, drain);
  const begun = async () =>
    (await site.ledger.drain.findUniqueOrThrow({ where: { id: drain } })).workflowAt !== null &&
    (await site.ledger.hostReservation.findUniqueOrThrow({ where: { id: reservation } })).workflowAt !== null;
  await site.until('both have begun', begun);
  return { vm, workflows: [workflowId.vm(vm), workflowId.reservation(reservation), drainWorkflow, workflowId.host(reserved!)] };
}

test('work of every kind that lost its workflow is started again', async () => {
  const { workflows, vm } = await workOfEachKind();
  const build = await startBuild(site, { commands: ['endless'] });
  const commandRuns = async () => site.hosts.some(({ jobsStarted }) => jobsStarted.has(build.vmId));
  await site.until('the recipe runs', commandRuns);
  for (const id of [...workflows, build.workflowId]) await site.client.workflow.getHandle(id).terminate('a test');
  expect(await Promise.all(workflows.map(statusOf))).toEqual(workflows.map(() => 'TERMINATED'));

  await site.client.workflow.start(workflowType.housekeeping, {
    taskQueue: controlQueue,
    workflowId: workflowId.housekeeping(),
    args: [site.pace],
  });
  for (const id of workflows) await site.until(`${id} runs again`, async () => (await statusOf(id)) === 'RUNNING');
  // What its command has done is unknown, so the build ends, and nothing of it is left.
  await site.until('the build has failed', async () => (await imageRow(site, build.id)).state === 'failed');
  expect((await imageRow(site, build.id)).error).toMatchObject({ code: 'interrupted' });
  await site.until('nothing of the build is left', async () => tracesOf(site, [build.vmId]).length === 0);
  // The VM serves its owner as before.
  await site.ledger.vm.update({ where: { id: vm }, data: { removalRequestedAt: new Date() } });
  await site.until(
    'the VM is removed',
    async () => (await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).state === 'removed',
  );
  expect(tracesOf(site, [vm])).toEqual([]);
});
