import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { changeTaskForceEnded, changeVmForceEnded } from '../../ledger/levers/force-end.ts';
import { changeHostRemoved } from '../../ledger/levers/remove-host.ts';
import { listWorkflowEnds } from '../../ledger/levers/workflow-ends.ts';
import { acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { BerthError } from '../../model/errors.ts';
import type { HostId, TaskId, VmId } from '../../model/ids.ts';
import type { Logger } from '../../model/log.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { endWorkflows } from '../../workers/end-workflows.ts';
import { registerHost } from '../../workers/register-host.ts';
import { rowsOf, tracesOf } from './everything-or-nothing.ts';
import { endless, type FakeSite, openFakeSite } from './fake-site.ts';

const week = 7 * 24 * 3600;
let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({ hosts: 2, run: () => ({ exitCode: 0, durationMs: endless, log: '', files: {} }) });
});
afterAll(() => site.stop());

const hostOf = (id: string): FakeHost => site.hosts.find((host) => host.id === id)!;
const order = () => ({ by: 'owner_operator', reason: 'a test', nowMs: Date.now() });

async function runningTask(): Promise<{ task: TaskId; vm: VmId; host: FakeHost }> {
  const task = await site.submit({ command: ['long'], timeoutS: week, lease: { kind: 'bestEffort', durationS: week } });
  await site.until('its command runs', async () => {
    const { vms } = await rowsOf(site, task);
    return vms[0]?.state === 'running' && (hostOf(vms[0].hostId!)?.jobsStarted.get(vms[0].id) ?? 0) === 1;
  });
  const { vms } = await rowsOf(site, task);
  return { task, vm: vms[0]!.id as VmId, host: hostOf(vms[0]!.hostId!) };
}

/** Until Temporal has no running workflow of that id. */
async function over(workflow: string): Promise<void> {
  await site.until(`${workflow} is over`, async () => {
    const { status } = await site.client.workflow.getHandle(workflow).describe();
    return status.name !== 'RUNNING';
  });
}

async function endAll(): Promise<void> {
  await endWorkflows(site.ledger, site.client);
  expect(await listWorkflowEnds(site.ledger)).toEqual([]);
}

const reconcile = (host: HostId) => site.client.workflow.getHandle(workflowId.reconcile(host)).signal(signalName.wakeUp);
const fences = (vm: string) => site.ledger.fence.count({ where: { vmId: vm } });
const usedVcpus = async (id: string) => (await site.ledger.host.findUniqueOrThrow({ where: { id } })).usedVcpus;

test('a task that is ended by force ends with its workflow, and its host is free once it has confirmed that nothing is left', async () => {
  const { task, vm, host } = await runningTask();
  await changeTaskForceEnded(site.ledger, task, order());
  expect(await usedVcpus(host.id)).toBe(1);
  expect(await fences(vm)).toBe(1);
  await endAll();
  await over(workflowId.task(task));
  await reconcile(host.id);
  await site.until('its host has confirmed it', async () => (await fences(vm)) === 0);
  expect(tracesOf(site, [vm])).toEqual([]);
  expect(await usedVcpus(host.id)).toBe(0);
  expect(host.violations).toEqual([]);
  const events = await site.ledger.event.findMany({
    where: { subject: task, type: { in: ['berth.task.failed', 'berth.task.succeeded'] } },
  });
  expect(events).toHaveLength(1);
});

test('a workflow that goes on until it is terminated changes nothing of the end', async () => {
  const { task, vm, host } = await runningTask();
  await changeTaskForceEnded(site.ledger, task, order());
  await reconcile(host.id);
  await site.until('its host has confirmed it', async () => (await fences(vm)) === 0);
  // The domain is gone: the workflow notices, and reports an end that the ledger has already.
  await endAll();
  await over(workflowId.task(task));
  expect((await rowsOf(site, task)).task).toMatchObject({ state: 'failed', error: { code: 'force-ended' } });
  expect(tracesOf(site, [vm])).toEqual([]);
});

test('a removal that a host refuses keeps the fence, and the reconciliation of others is not held up', async () => {
  const { task, vm, host } = await runningTask();
  const [name, domain] = [...host.domains].find(([one]) => one.includes(vm))!;
  const record = host.records.get(vm)!;
  // A foreign domain under its name, without a record of ours: it must not be ended.
  host.records.delete(vm);
  host.domains.set(name, { ...domain, config: { ...domain.config, uuid: '00000000-0000-0000-0000-000000000000' } });
  await changeTaskForceEnded(site.ledger, task, order());
  await endAll();
  await reconcile(host.id);
  await site.until('the refusal is told', async () =>
    (await site.detailsOf(workflowId.reconcile(host.id))).includes(`${vm} is fenced`),
  );
  expect(await fences(vm)).toBe(1);
  expect(host.domains.has(name)).toBe(true);
  host.domains.set(name, domain);
  host.records.set(vm, record);
  await reconcile(host.id);
  await site.until('its host has confirmed it', async () => (await fences(vm)) === 0);
  expect(tracesOf(site, [vm])).toEqual([]);
});

test('a standalone VM that is ended by force leaves nothing, and its workflow ends', async () => {
  const image = await site.publishImage();
  const request = VmRequest.parse({ name: 'alone', image });
  const vm = await site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order: request, nowMs: Date.now() }));
  await site.client.workflow.start(workflowType.vm, {
    taskQueue: controlQueue,
    workflowId: workflowId.vm(vm as VmId),
    args: [vm, site.pace],
  });
  const row = () => site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
  await site.until('it runs', async () => (await row()).state === 'running');
  const { hostId } = await row();
  await changeVmForceEnded(site.ledger, vm, order());
  await endAll();
  await over(workflowId.vm(vm as VmId));
  await reconcile(hostId as HostId);
  await site.until('its host has confirmed it', async () => (await fences(vm)) === 0);
  expect(tracesOf(site, [vm as VmId])).toEqual([]);
  expect((await row()).state).toBe('removed');
});

test.each([
  ['removeVm', 'failsBefore'],
  ['removeVm', 'killedAfter'],
  ['removeVm', 'refusedAfter'],
  ['liftFence', 'failsAfter'],
  ['liftFence', 'refusedAfter'],
] as const)('a fence is lifted once its host is clean, whatever befalls the step: %s %s', async (name, fault) => {
  const { task, vm, host } = await runningTask();
  const workflow = workflowId.reconcile(host.id);
  await changeTaskForceEnded(site.ledger, task, order());
  await endAll();
  const nth = site.faults.callsOf(workflow).filter((call) => call.name === name).length + 1;
  site.faults.plan(workflow, { name, nth }, fault);
  await reconcile(host.id);
  await site.until('the fault has happened', async () => site.faults.fired(workflow));
  // What was refused is tried again by the next round.
  await reconcile(host.id);
  await site.until('its host has confirmed it', async () => (await fences(vm)) === 0);
  expect(tracesOf(site, [vm])).toEqual([]);
  expect([await usedVcpus(host.id), host.violations]).toEqual([0, []]);
});

test('a host that was declared lost and returns is closed, and loses what ended meanwhile', async () => {
  const { task, vm, host } = await runningTask();
  await site.stopWorker(host.id);
  const row = () => site.ledger.host.findUniqueOrThrow({ where: { id: host.id } });
  await site.until('it is unknown', async () => (await row()).state === 'unknown');
  const removal = { declaredLost: true, by: 'owner_operator', nowMs: Date.now() };
  const refusal = await changeHostRemoved(site.ledger, host.id, { ...removal, confirm: null }).catch((error: unknown) => error);
  const confirm = String((refusal as BerthError).extra.token);
  await changeHostRemoved(site.ledger, host.id, { ...removal, confirm });
  expect((await rowsOf(site, task)).task).toMatchObject({ state: 'failed', error: { code: 'vm-lost' } });
  await endAll();
  await over(workflowId.task(task));
  expect(host.domains.size).toBe(1);
  await site.startHost(host);
  await site.until('it is part of the site again', async () => (await row()).removedAt === null);
  expect((await row()).schedulable).toBe(false);
  await site.until('what ended meanwhile is removed', async () => tracesOf(site, [vm]).length === 0);
});

test('a second machine with the id of a host takes no step until the first is silent', async () => {
  const host = site.hosts.find(({ id }) => id === 'host-2')!;
  const facts = { ...(await host.ports.probe.measure()), images: [] };
  const warned: string[] = [];
  const log = { info: () => undefined, warn: () => undefined, error: (text: string) => warned.push(text) } as unknown as Logger;
  const observe = async () => ({ ...facts, machine: 'another machine' });
  let admitted = false;
  const registered = registerHost({ client: site.client, hostId: host.id, observe, log, pace: 0.05 }).then(() => {
    admitted = true;
  });
  await site.until('it is refused', async () => warned.length > 1);
  expect([admitted, warned[0]]).toEqual([false, expect.stringContaining('another one')]);
  await site.stopWorker(host.id);
  await site.until('the first is silent, and the second is admitted', async () => admitted);
  await registered;
  expect((await site.ledger.host.findUniqueOrThrow({ where: { id: host.id } })).machine).toBe('another machine');
});
