import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { newRecord } from '../../activities/host/vm-record.ts';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { newId, type TaskId, type VmId } from '../../model/ids.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { expectEmptySite, expectEverythingOrNothing, rowsOf, tracesOf } from './everything-or-nothing.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';

const week = 7 * 24 * 3600;

let site: FakeSite;
let host: FakeHost;
beforeAll(async () => {
  site = await openFakeSite({
    hosts: 1,
    run: (_, [program]) => ({
      exitCode: 0,
      durationMs: program === 'long' ? endless : 50,
      log: '',
      files: { 'out/result': 'done\n' },
    }),
  });
  host = site.hosts[0]!;
});
afterAll(() => site.stop());
beforeEach(() => expectEmptySite(site));

/** Waits for one more reconciliation of the host, which has observed its present state. */
async function reconciled(): Promise<void> {
  const id = workflowId.reconcile(host.id);
  const before = await site.detailsOf(id);
  await site.client.workflow.getHandle(id).signal(signalName.wakeUp);
  await site.until('another reconciliation', async () => (await site.detailsOf(id)) !== before);
}

test('the housekeeper starts what was accepted and never started, and cancels what missed the notification of its end', async () => {
  const lost = await site.accept();
  const unheard = await site.submit({ command: ['long'], timeoutS: week });
  await site.until('it runs', async () => (await rowsOf(site, unheard)).task.state === 'running');
  await site.ledger.task.update({ where: { id: unheard }, data: { cancelRequestedAt: new Date() } });
  const house = await site.client.workflow.start(workflowType.housekeeping, {
    taskQueue: controlQueue,
    workflowId: workflowId.housekeeping(),
    args: [site.pace],
  });
  await site.until('the lost one has begun', async () => (await rowsOf(site, lost)).task.workflowAt !== null);
  expect(await site.ended(lost)).toBe('succeeded');
  expect(await site.ended(unheard)).toBe('cancelled');
  await house.terminate();
  for (const id of [lost, unheard]) await expectEverythingOrNothing(site, id);
});

test('the housekeeper ends a task whose workflow was terminated, and resumes one that had not begun', async () => {
  const running = await site.submit({ command: ['long'], timeoutS: week });
  await site.until('it runs', async () => (await rowsOf(site, running)).task.state === 'running');
  const cancelled = await site.submit({ command: ['long'], timeoutS: week });
  await site.until('the other runs', async () => (await rowsOf(site, cancelled)).task.state === 'running');
  await site.ledger.task.update({ where: { id: cancelled }, data: { cancelRequestedAt: new Date() } });
  await site.ledger.host.update({ where: { id: host.id }, data: { schedulable: false } });
  const queued = await site.submit();
  await site.until('it waits', async () => (await site.detailsOf(workflowId.task(queued))).includes('queued'));
  for (const id of [running, cancelled, queued]) await site.client.workflow.getHandle(workflowId.task(id)).terminate();
  const house = await site.client.workflow.start(workflowType.housekeeping, {
    taskQueue: controlQueue,
    workflowId: workflowId.housekeeping(),
    args: [site.pace],
  });
  const is = async (id: TaskId, state: string) => (await rowsOf(site, id)).task.state === state;
  await site.until('the one that ran has failed', () => is(running, 'failed'));
  expect((await rowsOf(site, running)).task.error).toMatchObject({ code: 'interrupted' });
  await site.until('the other is cancelled', () => is(cancelled, 'cancelled'));
  // Only the housekeeper notifies the queue that its host is back.
  await site.ledger.host.update({ where: { id: host.id }, data: { schedulable: true } });
  await house.signal(signalName.wakeUp);
  await site.until('what waited has run', () => is(queued, 'succeeded'));
  await house.terminate();
  for (const id of [running, cancelled, queued]) await expectEverythingOrNothing(site, id);
});

test('what a removed VM has left on a host is removed', async () => {
  const id = await site.submit({ command: ['long'], timeoutS: week });
  await site.until('it runs', async () => host.jobsStarted.size > 0 && host.domains.size === 1);
  const kept = { domains: [...host.domains], disks: [...host.disks], records: [...host.records], networks: [...host.networks] };
  await site.cancel(id);
  await site.ended(id);
  for (const [name, domain] of kept.domains) host.domains.set(name, domain);
  for (const [path, disk] of kept.disks) host.disks.set(path, disk);
  for (const [vm, record] of kept.records) host.records.set(vm, record);
  for (const [vni, network] of kept.networks) host.networks.set(vni, network);
  expect(
    tracesOf(
      site,
      (await rowsOf(site, id)).vms.map((vm) => vm.id),
    ),
  ).not.toEqual([]);
  await reconciled();
  await expectEverythingOrNothing(site, id);
});

test('a leftover without an owner is quarantined when it was seen twice, and a live foreign domain is never touched', async () => {
  const stranger = newId('vm');
  host.records.set(stranger, newRecord({ id: stranger, generation: 1, image: { id: newId('image') }, network: { vni: 1 } }));
  const id = await site.submit({ command: ['long'], timeoutS: week });
  await site.until('it runs', async () => host.domains.size === 1);
  const [name, domain] = [...host.domains][0]!;
  host.domains.set('somebody-else', {
    ...domain,
    config: { ...domain.config, name: 'somebody-else', uuid: 'another', disks: [] },
  });
  await reconciled();
  expect([...host.quarantined.keys()]).toEqual([]);
  await reconciled();
  expect([...host.quarantined.keys()]).toEqual([stranger]);
  expect([...host.domains.keys()].sort()).toEqual([name, 'somebody-else'].sort());
  expect(await site.detailsOf(workflowId.reconcile(host.id))).toContain('somebody-else');
  host.domains.delete('somebody-else');
  host.quarantined.clear();
  await site.cancel(id);
  await site.ended(id);
});

test('a VM that should exist and does not is reported when it was missed twice, and its row is kept', async () => {
  const id = await site.accept();
  const steps = site.ledgerSteps();
  const { vmIds } = await steps.loadTask(id);
  await steps.reserveTask(id);
  await steps.advanceTask(id, 'stagingIn', []);
  await steps.advanceTask(id, 'starting', [], 'creating');
  await steps.advanceTask(id, 'running', [], 'running');
  await reconciled();
  expect((await rowsOf(site, id)).vms[0]?.state).toBe('running');
  await reconciled();
  expect((await rowsOf(site, id)).vms[0]).toMatchObject({ state: 'stuck', problem: { code: 'vm-lost' }, hostId: host.id });
  await steps.releaseVms(vmIds as VmId[]);
});

/** A foreign domain is under the VM's name, without a record of ours: we must not end it. */
function disown(): { name: string; reclaim: () => void } {
  const [name, domain] = [...host.domains][0]!;
  const record = [...host.records.values()][0]!;
  host.records.clear();
  host.domains.set(name, { ...domain, config: { ...domain.config, uuid: '00000000-0000-0000-0000-000000000000' } });
  const reclaim = (): void => {
    host.domains.set(name, domain);
    host.records.set(record.vmId, record);
  };
  return { name, reclaim };
}

test('a VM whose removal is refused is stuck, reports why, keeps its resources, and is removed once an operator has fixed the cause', async () => {
  const id = await site.submit({ command: ['long'], timeoutS: week });
  await site.until('its command runs', async () => (await rowsOf(site, id)).vms.some((vm) => host.jobsStarted.has(vm.id)));
  const { name, reclaim } = disown();
  await site.cancel(id);
  await site.until('the owner has an answer', async () => (await rowsOf(site, id)).task.state === 'cancelled');
  expect((await rowsOf(site, id)).vms[0]).toMatchObject({ state: 'stuck', problem: { code: 'not-ours' } });
  expect(host.domains.has(name)).toBe(true);
  expect(host.disks.size).toBe(2);
  expect(await site.detailsOf(workflowId.task(id))).toContain('wakeUp');
  reclaim();
  await site.client.workflow.getHandle(workflowId.task(id)).signal(signalName.wakeUp);
  expect(await site.ended(id)).toBe('cancelled');
  await expectEverythingOrNothing(site, id);
});

test('a VM whose removal is refused is removed by the next workflow of its task, where the one before was ended from outside', async () => {
  const id = await site.submit({ command: ['long'], timeoutS: week });
  await site.until('its command runs', async () => (await rowsOf(site, id)).vms.some((vm) => host.jobsStarted.has(vm.id)));
  const { name, reclaim } = disown();
  await site.cancel(id);
  await site.until('the owner has an answer', async () => (await rowsOf(site, id)).task.state === 'cancelled');
  await site.client.workflow.getHandle(workflowId.task(id)).terminate('a test');
  expect(await site.ledgerSteps().listActiveTasks(null)).toContain(id);
  const house = await site.client.workflow.start(workflowType.housekeeping, {
    taskQueue: controlQueue,
    workflowId: workflowId.housekeeping(),
    args: [site.pace],
  });
  const statusOf = async () => (await site.client.workflow.getHandle(workflowId.task(id)).describe()).status.name;
  await site.until('its workflow runs again', async () => (await statusOf()) === 'RUNNING');
  await house.terminate();
  await site.until('the VM is stuck', async () => (await rowsOf(site, id)).vms[0]?.state === 'stuck');
  expect(host.domains.has(name)).toBe(true);
  reclaim();
  await site.client.workflow.getHandle(workflowId.task(id)).signal(signalName.wakeUp);
  expect(await site.ended(id)).toBe('cancelled');
  await expectEverythingOrNothing(site, id);
  expect(await site.ledgerSteps().listActiveTasks(null)).not.toContain(id);
});

test('a host with the address of another is refused, reports why, and is accepted when that was fixed', async () => {
  const facts = { ...(await host.ports.probe.measure()), hostId: 'host-9', images: [] };
  const arrive = (address: string) =>
    site.client.workflow.signalWithStart(workflowType.host, {
      taskQueue: controlQueue,
      workflowId: 'host-host-9',
      args: ['host-9', site.pace],
      signal: signalName.hostRegistered,
      signalArgs: [{ ...facts, address }],
    });
  const row = () => site.ledger.host.findUnique({ where: { id: 'host-9' } });
  await arrive((await site.ledger.host.findUniqueOrThrow({ where: { id: host.id } })).address);
  await site.until('it says that it was refused', async () => (await site.detailsOf('host-host-9')).includes('refuses'));
  expect(await row()).toBeNull();
  await arrive('10.77.0.9');
  await site.until('it is up', async () => (await row())?.state === 'up');
});
