import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ApplicationFailure } from '@temporalio/common';
import proto from '@temporalio/proto';
import { NativeConnection, Worker } from '@temporalio/worker';
import type { DeliveryStep } from '../../contracts/webhooks.ts';
import type { FakeHost, FakeRun } from '../../drivers/fake/host.ts';
import { createFakeTemplates } from '../../drivers/fake/templates.ts';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { acceptReservation } from '../../ledger/reservations/accept-reservation.ts';
import { acceptOperation, acceptVm } from '../../ledger/vms/accept-vm.ts';
import type { ConsoleRange } from '../../model/console.ts';
import { type HostId, newId, type TaskId, type VmId } from '../../model/ids.ts';
import type { MigrationId, MigrationMode } from '../../model/migration.ts';
import { controlQueue, signalName, webhooksQueue, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import type { PrefetchRequest } from '../../workflows/image/prefetch-image.ts';
import { askForHelp, openBalance, overload } from '../sagas/balance-site.ts';
import { startBuild } from '../sagas/build-site.ts';
import { addressOf, endless, type FakeSite, type FakeSiteOptions, openFakeSite } from '../sagas/fake-site.ts';
import { startPostgresServer } from '../services/postgres-server.ts';
import { startTemporalServer } from '../services/temporal-server.ts';

/**
 * Records the histories that replay.test.ts replays, again:
 *
 *   node test/replay/record.ts [tasks|upserts|hosts|prefetch|images|house|migration|templates|drains|inPlace|reservation|leases|moved|vm|domains|stopped|remaining|webhooks|help]
 *
 * Needed when a workflow was changed on purpose in a way that old histories don't replay, and none of them runs any more at
 * any site (for the others use a version gate, patched() of the SDK).
 */
const { History } = proto.temporal.api.history.v1;
const { EventType } = proto.temporal.api.enums.v1;

const folder = join(import.meta.dirname, 'histories');
const week = 7 * 24 * 3600;
const done: FakeRun = { exitCode: 0, durationMs: 50, log: 'done\n', files: { 'out/result': 'done\n' } };

/** Values that differ between machines and that no replay reads. */
function withoutTraces(key: string, value: unknown): unknown {
  if (key === 'stackTrace') return undefined;
  return key === 'identity' ? 'worker' : value;
}

/** A history that ends where its workflow waits, not in the middle of a workflow task. */
async function settledHistory(site: FakeSite, id: string) {
  for (;;) {
    const history = await site.client.workflow.getHandle(id).fetchHistory();
    const last = history.events?.at(-1)?.eventType;
    if (last !== EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED && last !== EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED)
      return history;
  }
}

async function write(site: FakeSite, name: string, id: string): Promise<void> {
  const history = await settledHistory(site, id);
  const plain = History.toObject(History.create(history), {
    longs: String,
    enums: String,
    bytes: String,
  });
  await writeFile(join(folder, `${name}.json`), `${JSON.stringify({ workflowId: id, history: plain }, withoutTraces)}\n`);
}

async function recordTask(site: FakeSite, name: string, id: TaskId): Promise<void> {
  await site.ended(id);
  await write(site, `runTask-${name}`, workflowId.task(id));
}

const stateOf = async (site: FakeSite, id: TaskId) => (await site.ledger.task.findUniqueOrThrow({ where: { id } })).state;
const until = (site: FakeSite, id: TaskId, state: string) =>
  site.until(`${id} is ${state}`, async () => (await stateOf(site, id)) === state);

async function recordTasks(site: FakeSite): Promise<void> {
  await recordTask(site, 'succeeded', await site.submit());
  await recordTask(site, 'failed', await site.submit({ command: ['fail'] }));
  await recordTask(site, 'gang', await site.submit({ nodes: 2 }));

  const boots = await site.accept();
  site.faults.plan(workflowId.task(boots), { name: 'ensureRunning', nth: 1 }, 'refusedAfter');
  await site.start(boots);
  await recordTask(site, 'undone', boots);

  const running = await site.submit({ command: ['endless'], timeoutS: week, nodes: 2 });
  await until(site, running, 'running');
  const queued = await site.submit();
  await site.until('it waits', async () => (await site.detailsOf(workflowId.task(queued))).includes('queued'));
  await site.cancel(running);
  await recordTask(site, 'cancelled', running);
  await recordTask(site, 'queued', queued);

  const expired = await site.submit({ command: ['endless'], timeoutS: week, lease: { kind: 'bestEffort', durationS: 1 } });
  await recordTask(site, 'expired', expired);
}

/** A host that was unreachable, with a task that was first placed there. */
async function recordHosts(site: FakeSite): Promise<void> {
  const [host] = site.hosts;
  await site.stopWorker(host!.id);
  const ids = await Promise.all([site.submit(), site.submit(), site.submit(), site.submit()]);
  await Promise.all(ids.map((id) => site.ended(id)));
  const generations = await Promise.all(ids.map((id) => site.ledger.vm.findFirstOrThrow({ where: { taskId: id } })));
  const moved = ids[generations.findIndex(({ generation }) => generation > 1)];
  if (moved === undefined) throw new Error('no task was placed on the silent host; record again');
  await recordTask(site, 'elsewhere', moved);
  const isUnknown = async () => (await site.ledger.host.findUniqueOrThrow({ where: { id: host!.id } })).state === 'unknown';
  await site.until('the host is unknown', isUnknown);
  await site.startHost(host!);
  await site.client.workflow.getHandle(workflowId.reconcile(host!.id)).signal(signalName.wakeUp);
  await site.until('what was left is gone', async () => host!.leftovers().length === 0);
  await write(site, 'monitorHost', workflowId.host(host!.id));
  await write(site, 'reconcileHost', workflowId.reconcile(host!.id));
}

async function recordHouse(site: FakeSite): Promise<void> {
  const lost = await site.accept();
  const id = workflowId.housekeeping();
  await site.client.workflow.start(workflowType.housekeeping, { taskQueue: controlQueue, workflowId: id, args: [site.pace] });
  await until(site, lost, 'succeeded');
  await write(site, 'runHousekeeping-retention', id);
}

async function recordPrefetch(site: FakeSite): Promise<void> {
  const image = await site.publishImage();
  const id = workflowId.prefetch(image, 'recorded');
  const order: PrefetchRequest = {
    image,
    hosts: site.hosts.map((host) => host.id),
    deadline: new Date(Date.now() + 60_000).toISOString(),
    pinnedUntil: new Date(Date.now() + 120_000).toISOString(),
  };
  const options = { taskQueue: controlQueue, workflowId: id, args: [order, site.pace] };
  await site.client.workflow.execute(workflowType.prefetch, options);
  await write(site, 'prefetchImage-succeeded', id);
}

/** A build that succeeds, one that fails and one that is cancelled; and an image that is retired. */
async function recordImages(site: FakeSite): Promise<void> {
  const built = await startBuild(site);
  await built.ended();
  await write(site, 'buildImage-ready', built.workflowId);
  const failed = await startBuild(site, { commands: ['fail'] });
  await failed.ended();
  await write(site, 'buildImage-failed', failed.workflowId);
  const cancelled = await startBuild(site, { commands: ['endless'] });
  await site.until('it is built', async () => (await site.detailsOf(cancelled.workflowId)).includes('run'));
  await site.client.workflow.getHandle(cancelled.workflowId).cancel();
  await cancelled.ended();
  await write(site, 'buildImage-cancelled', cancelled.workflowId);
  const disk = await startBuild(site, { base: { disk: 'raw 64' } });
  await disk.ended();
  await write(site, 'buildImage-disk', disk.workflowId);
  const image = await site.publishImage();
  await site.ledger.hostImage.createMany({ data: site.hosts.map(({ id }) => ({ hostId: id, imageId: image })) });
  await site.ledger.image.update({ where: { id: image }, data: { state: 'retired' } });
  const options = { taskQueue: controlQueue, workflowId: workflowId.retire(image), args: [image, site.pace] };
  await site.client.workflow.execute(workflowType.retire, options);
  await write(site, 'retireImage', workflowId.retire(image));
}

/** A VM that moves while its task's command runs. */
async function recordMigration(site: FakeSite): Promise<void> {
  for (const host of site.hosts) for (const other of site.hosts) host.hostsByAddress.set(addressOf(other.id), other);
  const task = await site.submit({ command: ['endless'], timeoutS: week });
  await until(site, task, 'running');
  const vm = await site.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
  const cached = site.hosts.find(({ id }) => id === vm.hostId)!.images.get(vm.imageId!)!;
  for (const host of site.hosts) {
    host.images.set(vm.imageId!, { ...cached });
    const key = { hostId: host.id, imageId: vm.imageId! };
    await site.ledger.hostImage.upsert({ where: { hostId_imageId: key }, create: key, update: {} });
  }
  const order = { vm: vm.id, to: null, coldFallback: false, requestedBy: site.owner, reason: null, nowMs: Date.now() };
  const id = await site.ledger.$transaction((tx) => acceptMigration(tx, order));
  const workflow = workflowId.migration(vm.id as VmId, 2);
  const options = { taskQueue: controlQueue, workflowId: workflow, args: [id, site.pace] };
  await site.client.workflow.start(workflowType.migration, options);
  await site.client.workflow.getHandle(workflow).result();
  await write(site, 'migrateVm', workflow);
  await recordMove(site, vm.id as VmId, 'disks');
  await recordPausedMove(site, vm.id as VmId);
  await recordMove(site, vm.id as VmId, 'cold');
  await site.cancel(task);
  await recordTask(site, 'moved', task);
}

/** A move of the same VM while it is paused. */
async function recordPausedMove(site: FakeSite, vm: VmId): Promise<void> {
  const power = async (state: 'paused' | 'running', reason: string): Promise<void> => {
    const { hostId } = await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
    site.hosts.find(({ id }) => id === hostId)!.changeDomain(vm, { state, reason });
    const isSo = async () => (await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).state === state;
    await site.until(`it is ${state}`, isSo);
  };
  await power('paused', 'user');
  await recordMove(site, vm, 'live', 'paused');
  await power('running', 'unpaused');
}

/** A later move of the same VM. */
async function recordMove(site: FakeSite, vm: VmId, mode: MigrationMode, variant: string = mode): Promise<void> {
  const moveDisk = variant === 'stopped';
  const order = { vm, to: null, mode, moveDisk, coldFallback: false, requestedBy: site.owner, reason: null, nowMs: Date.now() };
  const id = await site.ledger.$transaction((tx) => acceptMigration(tx, order));
  const { generation } = await site.ledger.migration.findUniqueOrThrow({ where: { id } });
  const options = { taskQueue: controlQueue, workflowId: workflowId.migration(vm, generation), args: [id, site.pace] };
  await site.client.workflow.execute(workflowType.migration, options);
  await write(site, `migrateVm-${variant}`, options.workflowId);
}

/** The disks of a standalone VM whose guest has powered itself off. */
async function recordStoppedMove(site: FakeSite): Promise<void> {
  for (const host of site.hosts) for (const other of site.hosts) host.hostsByAddress.set(addressOf(other.id), other);
  const vm = await startAlone(site, 'stopped');
  const row = () => site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
  const { hostId } = await row();
  site.hosts.find(({ id }) => id === hostId)!.powerOff(vm);
  await site.until('it is stopped', async () => (await row()).state === 'stopped');
  await recordMove(site, vm, 'cold', 'stopped');
  await removeAlone(site, vm);
}

/** A task that has ended while its VM could not be removed, and whose first workflow was ended from outside. */
async function recordRemaining(site: FakeSite): Promise<void> {
  const task = await site.submit({ command: ['endless'], timeoutS: week });
  await until(site, task, 'running');
  const { id: vm, hostId } = await site.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
  const host = site.hosts.find(({ id }) => id === hostId)!;
  const [domain, record] = [host.domains.get(vm)!, host.records.get(vm)!];
  // Somebody else's domain under its name: nothing of it may be removed.
  host.records.delete(vm);
  host.domains.set(vm, { ...domain, config: { ...domain.config, uuid: '00000000-0000-0000-0000-000000000000' } });
  await site.cancel(task);
  await until(site, task, 'cancelled');
  const handle = site.client.workflow.getHandle(workflowId.task(task));
  await handle.terminate('a recording');
  const options = { taskQueue: controlQueue, workflowId: workflowId.task(task), args: [task, site.pace] };
  await site.client.workflow.start(workflowType.task, options);
  const isStuck = async () => (await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } })).state === 'stuck';
  await site.until('it is stuck', isStuck);
  host.domains.set(vm, domain);
  host.records.set(vm as VmId, record);
  await handle.signal(signalName.wakeUp);
  await recordTask(site, 'remaining', task);
}

/** One template, for a VM that was placed and is gone. */
async function recordTemplates(site: FakeSite): Promise<void> {
  const id = await site.accept();
  const placement = await site.ledgerSteps().reserveTask(id);
  if (!placement.placed) throw new Error('there is no room for a VM');
  const [vm] = placement.vms;
  await site.ledgerSteps().releaseVms([vm!.id]);
  await site.ledger.task.update({ where: { id }, data: { state: 'cancelled' } });
  const host = site.hosts.find((one) => one.id === vm!.host)!;
  host.ports.templates = createFakeTemplates(host);
  const workflow = workflowId.templates(host.id);
  const options = { taskQueue: controlQueue, workflowId: workflow, args: [host.id, site.pace, [vm]] };
  await site.client.workflow.execute(workflowType.templates, options);
  await write(site, 'buildTemplates', workflow);
}

/** A host that is emptied while a task's command runs on it, and one whose drain is cancelled. */
async function recordDrains(site: FakeSite): Promise<void> {
  for (const host of site.hosts) for (const other of site.hosts) host.hostsByAddress.set(addressOf(other.id), other);
  const task = await site.submit({ command: ['endless'], timeoutS: week, lease: { kind: 'bestEffort', durationS: week } });
  await until(site, task, 'running');
  const { hostId } = await site.ledger.vm.findFirstOrThrow({ where: { taskId: task } });
  const drain = async () => {
    const nowMs = Date.now();
    const order = {
      host: hostId!,
      deadlineMs: nowMs + 3600_000,
      strategy: 'auto' as const,
      mode: 'auto' as const,
      moveDisks: false,
      suspendInPlace: 'never' as const,
    };
    const more = { confidence: 0.99, nowMs, returnAfterMs: null, returnVms: false, owner: site.owner, reason: null };
    const id = await site.ledger.$transaction((tx) => acceptDrain(tx, { ...order, ...more }));
    const { number } = await site.ledger.drain.findUniqueOrThrow({ where: { id } });
    const options = { taskQueue: controlQueue, workflowId: workflowId.drain(hostId as HostId, number), args: [id, site.pace] };
    const handle = await site.client.workflow.start(workflowType.drain, options);
    const looked = async () => (await site.ledger.vmLoad.count()) === 1;
    await site.until('its VM was looked at', looked);
    return { id, handle };
  };
  const cancelled = await drain();
  await cancelled.handle.cancel();
  await cancelled.handle.result();
  await write(site, 'drainHost-cancelled', cancelled.handle.workflowId);
  const emptied = await drain();
  await site.ledger.drain.update({ where: { id: emptied.id }, data: { deadline: new Date() } });
  await emptied.handle.signal(signalName.orderChanged);
  await emptied.handle.result();
  await write(site, 'drainHost-empty', emptied.handle.workflowId);
  const { id: moved } = await site.ledger.migration.findFirstOrThrow({ where: { requestedBy: emptied.id } });
  const recovery = workflowId.recovery(moved as MigrationId);
  await site.client.workflow.getHandle(recovery).result();
  await write(site, 'measureRecovery', recovery);
  await site.cancel(task);
  await site.ended(task);
  await site.ledger.host.update({ where: { id: hostId! }, data: { schedulable: true, acceptsMigrations: true } });
}

/** A host whose VM no other host takes: it is suspended there, and restored when the host is returned. */
async function recordInPlace(site: FakeSite): Promise<void> {
  const id = await startAlone(site, 'in-place');
  const { hostId } = await site.ledger.vm.findUniqueOrThrow({ where: { id } });
  const others = { where: { id: { not: hostId! } } };
  await site.ledger.host.updateMany({ ...others, data: { acceptsMigrations: false } });
  const nowMs = Date.now();
  const order = { strategy: 'auto', mode: 'auto', moveDisks: false, suspendInPlace: 'ifStuck', confidence: 0.99 } as const;
  const times = { deadlineMs: nowMs + 3600_000, returnAfterMs: nowMs + 3600_000, nowMs };
  const drain = await site.ledger.$transaction((tx) =>
    acceptDrain(tx, { ...order, ...times, host: hostId!, returnVms: true, owner: site.owner, reason: null }),
  );
  const { number } = await site.ledger.drain.findUniqueOrThrow({ where: { id: drain } });
  const workflow = workflowId.drain(hostId as HostId, number);
  const options = { taskQueue: controlQueue, workflowId: workflow, args: [drain, site.pace] };
  const handle = await site.client.workflow.start(workflowType.drain, options);
  const change = async (data: { deadline?: Date; returnAfter?: Date }) => {
    await site.ledger.drain.update({ where: { id: drain }, data });
    await handle.signal(signalName.orderChanged);
  };
  await change({ deadline: new Date() });
  const isHeld = async () => (await site.ledger.drain.findUniqueOrThrow({ where: { id: drain } })).state === 'held';
  await site.until('it is held', isHeld);
  await change({ returnAfter: new Date() });
  await handle.result();
  await write(site, 'drainHost-inPlace', workflow);
  await removeAlone(site, id);
  await site.ledger.host.updateMany({ ...others, data: { acceptsMigrations: true } });
}

async function recordReservation(site: FakeSite): Promise<void> {
  const nowMs = Date.now();
  const order = { wanted: { nodes: 1 }, startAtMs: nowMs + 1000, endAtMs: nowMs + 3000, purpose: 'a recording', nowMs };
  const id = await site.ledger.$transaction((tx) => acceptReservation(tx, { ...order, returnVms: true, owner: site.owner }));
  const workflow = workflowId.reservation(id);
  const options = { taskQueue: controlQueue, workflowId: workflow, args: [id, site.pace] };
  await site.client.workflow.execute(workflowType.reservation, options);
  await write(site, 'reserveHosts-ended', workflow);
}

/** Work that is suspended for a reservation of all hosts, and resumes afterwards; a standalone VM, for a fixed time. */
async function recordLeases(site: FakeSite): Promise<void> {
  await site.startPlanner();
  // So that the plan knows how soon VMs are ready.
  for (let n = 0; n < 3; n += 1) await site.ended(await site.submit());
  const work = await site.submit({ command: ['long'], timeoutS: week });
  await until(site, work, 'running');
  const startAt = new Date(Date.now() + 20_000).toISOString();
  const promised = await site.submit({ nodes: 2, lease: { kind: 'reservation', startAt, durationS: 30 } });
  await recordTask(site, 'promised', promised);
  await recordTask(site, 'suspended', work);
  await write(site, 'planLeases', workflowId.planner());
  const image = await site.publishImage();
  const lease = { kind: 'reservation', startAt: new Date(Date.now() + 20_000).toISOString(), durationS: 2 };
  const order = VmRequest.parse({ name: 'promised', image, lease });
  const vm = await site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order, nowMs: Date.now() }));
  const alone = { taskQueue: controlQueue, workflowId: workflowId.vm(vm), args: [vm, site.pace] };
  await site.client.workflow.execute(workflowType.vm, alone);
  await write(site, 'runVm-promised', workflowId.vm(vm));
}

/** Work that is suspended for a reservation, and resumes on another host. */
async function recordMoved(site: FakeSite): Promise<void> {
  await site.startPlanner();
  for (let n = 0; n < 3; n += 1) await site.ended(await site.submit());
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
  const work = await site.submit({ command: ['long'], timeoutS: week });
  const firm = { kind: 'bestEffort', preemptible: false };
  const inTheWay = await site.submit({ command: ['endless'], timeoutS: week, lease: firm });
  for (const id of [work, inTheWay]) await until(site, id, 'running');
  const lease = { kind: 'reservation', startAt: new Date(Date.now() + 20_000).toISOString(), durationS: 3600 };
  const promised = await site.submit({ command: ['endless'], timeoutS: week, lease });
  const row = () => site.ledger.task.findUniqueOrThrow({ where: { id: work }, include: { lease: true } });
  await site.until('it is suspended', async () => (await row()).lease.suspension === 'suspended');
  await site.cancel(inTheWay);
  await recordTask(site, 'movedSuspended', work);
  const [moved] = await site.ledger.migration.findMany({ where: { requestedBy: 'planner' } });
  await write(site, 'migrateVm-planned', workflowId.migration(moved!.vmId as VmId, moved!.generation));
  await write(site, 'planLeases-moving', workflowId.planner());
  await site.cancel(promised);
  await site.ended(promised);
}

async function acceptAlone(site: FakeSite, name: string): Promise<VmId> {
  const order = VmRequest.parse({ name, image: await site.publishImage(), firstBoot: ['true'] });
  return site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order, nowMs: Date.now() }));
}

/** A standalone VM, running as requested. */
async function startAlone(site: FakeSite, name: string): Promise<VmId> {
  const id = await acceptAlone(site, name);
  const options = { taskQueue: controlQueue, workflowId: workflowId.vm(id), args: [id, site.pace] };
  await site.client.workflow.start(workflowType.vm, options);
  const isMade = async () => (await site.ledger.vm.findUniqueOrThrow({ where: { id } })).hostKey !== null;
  await site.until('it is made', isMade);
  return id;
}

async function removeAlone(site: FakeSite, id: VmId): Promise<void> {
  const handle = site.client.workflow.getHandle(workflowId.vm(id));
  await site.ledger.vm.update({ where: { id }, data: { removalRequestedAt: new Date() } });
  await handle.signal(signalName.operationRequested);
  await handle.result();
}

/** A standalone VM, through all of its operations. */
async function recordVm(site: FakeSite): Promise<void> {
  const id = await startAlone(site, 'recorded');
  const handle = site.client.workflow.getHandle(workflowId.vm(id));
  const row = () => site.ledger.vm.findUniqueOrThrow({ where: { id } });
  for (const operation of ['pause', 'resume', 'suspend', 'restore', 'reboot'] as const) {
    await site.ledger.$transaction((tx) => acceptOperation(tx, id, operation, Date.now()));
    await handle.signal(signalName.operationRequested);
    await site.until(`its ${operation} is over`, async () => (await row()).operation === null);
  }
  const reading = workflowId.console(id, 'recorded');
  const range: ConsoleRange = { last: 100 };
  const readings = { taskQueue: controlQueue, workflowId: reading, args: [id, range, site.pace] };
  await site.client.workflow.execute(workflowType.console, readings);
  await write(site, 'readConsole', reading);
  const order = { id: 'recorded', url: null, token: 'taken', owner: site.owner, needsProgram: true };
  const stream = workflowId.stream(id, order.id);
  const streams = { taskQueue: controlQueue, workflowId: stream, args: [id, order, site.pace] };
  await site.client.workflow.execute(workflowType.stream, streams);
  await write(site, 'openStream', stream);
  await removeAlone(site, id);
  await write(site, 'runVm-operated', workflowId.vm(id));

  const unmade = await acceptAlone(site, 'unmade');
  site.faults.plan(workflowId.vm(unmade), { name: 'ensureRunning', nth: 1 }, 'refusedAfter');
  const args = { taskQueue: controlQueue, workflowId: workflowId.vm(unmade), args: [unmade, site.pace] };
  await site.client.workflow.execute(workflowType.vm, args);
  await write(site, 'runVm-undone', workflowId.vm(unmade));
}

/** A guest that powers itself off while an operation is under way, which is waited for. */
async function recordDomains(site: FakeSite): Promise<void> {
  const id = await startAlone(site, 'watched');
  const row = () => site.ledger.vm.findUniqueOrThrow({ where: { id } });
  const host = site.hosts.find((one) => one.domains.has(id))!;
  await site.ledger.vm.update({ where: { id }, data: { operation: 'pause', operationAt: new Date() } });
  host.powerOff(id);
  await site.until('it was looked at', async () => (await site.detailsOf(workflowId.domains(host.id)).catch(() => '')) !== '');
  await site.ledger.vm.update({ where: { id }, data: { operation: null, operationAt: null } });
  await site.until('it is stopped', async () => (await row()).state === 'stopped');
  await site.client.workflow.getHandle(workflowId.domains(host.id)).result();
  await write(site, 'recordDomainChanges', workflowId.domains(host.id));
  await removeAlone(site, id);
}

/** A host that is relieved of a VM. */
async function recordHelp(site: FakeSite): Promise<void> {
  for (const host of site.hosts) for (const other of site.hosts) host.hostsByAddress.set(addressOf(other.id), other);
  const [first, ...others] = site.hosts as [FakeHost, ...FakeHost[]];
  await openBalance(site, others);
  const { host } = await overload(site, first);
  await askForHelp(site, host.id);
  await write(site, 'helpHost', workflowId.help(host.id));
}

/** Deliveries of each outcome: a failed attempt, nothing more, more, an activity that is refused, and the end. */
async function recordWebhooks(site: FakeSite): Promise<void> {
  const owner = site.owner;
  const outcomes: (() => DeliveryStep | null)[] = [
    () => ({ owner, next: 'retry', waitMs: 50, failures: 1, error: 'it answered 500' }),
    () => ({ owner, next: 'idle' }),
    () => ({ owner, next: 'again' }),
    () => {
      throw ApplicationFailure.create({ message: 'There is no key 1 to decrypt with', type: 'internal', nonRetryable: true });
    },
    () => null,
  ];
  const connection = await NativeConnection.connect({ address: site.address });
  const worker = await Worker.create({
    connection,
    namespace: site.namespace,
    taskQueue: webhooksQueue,
    activities: { deliverEvents: async () => outcomes.shift()!() },
  });
  const webhook = newId('webhook');
  const id = workflowId.webhook(webhook);
  await worker.runUntil(async () => {
    const options = { taskQueue: controlQueue, workflowId: id, args: [webhook, site.pace] };
    const handle = await site.client.workflow.start(workflowType.webhook, options);
    await site.until('it waits', async () => (await site.detailsOf(id)).includes('all events were delivered'));
    await handle.signal(signalName.wakeUp);
    await handle.result();
  });
  await connection.close();
  await write(site, 'deliverWebhook', id);
}

const postgres = await startPostgresServer();
const temporal = await startTemporalServer();
process.env.DATABASE_URL = postgres.url;
process.env.TEMPORAL_ADDRESS = temporal.address;
const settings = {
  hosts: 2,
  pace: 0.1,
  capacity: { vcpus: 1, memoryMiB: 65_536, diskMiB: 262_144 },
  // Of a task the program itself, of a build its last command.
  run: (_, argv) => ({
    ...done,
    exitCode: argv.at(-1) === 'fail' ? 3 : 0,
    durationMs: argv.at(-1) === 'endless' ? endless : argv.at(-1) === 'long' ? 1_500_000 : 50,
  }),
} satisfies FakeSiteOptions;
try {
  const [only] = process.argv.slice(2);
  const parts = {
    tasks: recordTasks,
    upserts: async (site: FakeSite) => recordTask(site, 'fewUpserts', await site.submit()),
    hosts: recordHosts,
    prefetch: recordPrefetch,
    images: recordImages,
    house: recordHouse,
    migration: recordMigration,
    stopped: recordStoppedMove,
    remaining: recordRemaining,
    templates: recordTemplates,
    drains: recordDrains,
    inPlace: recordInPlace,
    reservation: recordReservation,
    leases: recordLeases,
    moved: recordMoved,
    vm: recordVm,
    domains: recordDomains,
    webhooks: recordWebhooks,
    help: recordHelp,
  };
  for (const [name, record] of Object.entries(parts)) {
    if (only !== undefined && only !== name) continue;
    // One site a part: two parts start its planner, which lives on.
    const site = await openFakeSite(name === 'help' ? { ...settings, capacity: { ...settings.capacity, vcpus: 16 } } : settings);
    await record(site).finally(() => site.stop());
  }
} finally {
  await temporal.stop();
  await postgres.stop();
}
