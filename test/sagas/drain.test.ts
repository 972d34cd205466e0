import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { acceptDrain, type DrainRequest } from '../../ledger/drains/accept-drain.ts';
import { readSuspendedInPlace, releaseInPlace } from '../../ledger/drains/suspended-in-place.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { acceptOperation, acceptVm } from '../../ledger/vms/accept-vm.ts';
import { type DrainId, type DrainOutline, type DrainState, drainStates, isDrainOver } from '../../model/drain.ts';
import { BerthError } from '../../model/errors.ts';
import type { ImageId, TaskId, VmId } from '../../model/ids.ts';
import type { MigrationId } from '../../model/migration.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { startMarginS } from '../../scheduler/drains/drain-plan.ts';
import { expectEmptySite, expectEverythingOrNothing } from './everything-or-nothing.ts';
import { addressOf, endless, type FakeSite, openFakeSite } from './fake-site.ts';

vi.setConfig({ testTimeout: 240_000 });

let site: FakeSite;
let host: FakeHost;
beforeAll(async () => {
  site = await openFakeSite({
    run: (_, [command]) => ({
      exitCode: 0,
      durationMs: command === 'work' ? endless : 1,
      log: 'done\n',
      files: { 'out/result': 'done\n' },
    }),
  });
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
  host = site.hosts[0]!;
});
afterAll(() => site.stop());
/** Tasks of the current test. */
let tasks: TaskId[] = [];
/** VMs that belong to no task. */
let alone: VmId[] = [];
// A drain that a failed test has left holds its host: each of the tests after it would wait there for minutes.
beforeEach(async () => {
  const over = drainStates.filter(isDrainOver);
  const left = await site.ledger.drain.findMany({ where: { state: { notIn: over } }, select: { id: true, state: true } });
  expect(left, 'drains of earlier tests').toEqual([]);
});
afterEach(async () => {
  await Promise.all(alone.map(remove));
  alone = [];
  await Promise.all(tasks.map((id) => site.cancel(id)));
  await Promise.all(tasks.map((id) => site.ended(id)));
  for (const id of tasks) await expectEverythingOrNothing(site, id);
  tasks = [];
  // Opens the hosts that a drain has closed, for the next test.
  await site.ledger.host.updateMany({ data: { schedulable: true, acceptsMigrations: true } });
  for (const one of site.hosts) one.loads.clear();
  await expectEmptySite(site);
});

const week = 7 * 24 * 3600;

/** Starts this many tasks whose commands run on the host, the only one that has their images. */
async function runningOn(count: number, order: Record<string, unknown> = {}): Promise<VmId[]> {
  await site.ledger.host.updateMany({ where: { id: { not: host.id } }, data: { schedulable: false } });
  tasks = await Promise.all(
    Array.from({ length: count }, () =>
      site.submit({ timeoutS: week, lease: { kind: 'bestEffort', durationS: week }, ...order }),
    ),
  );
  const rows = () => site.ledger.vm.findMany({ where: { taskId: { in: tasks } }, orderBy: { id: 'asc' } });
  await site.until('they run', async () =>
    (await rows()).every((row) => row.state === 'running' && (host.jobsStarted.get(row.id) ?? 0) === 1),
  );
  await site.ledger.host.updateMany({ where: { id: { not: host.id } }, data: { schedulable: true } });
  return (await rows()).map(({ id }) => id as VmId);
}

const rowOf = (id: VmId) => site.ledger.vm.findUniqueOrThrow({ where: { id } });
const notifyVm = (id: VmId) => site.client.workflow.getHandle(workflowId.vm(id)).signal(signalName.operationRequested);

/** Starts this many VMs that belong to no task on the host; the other hosts no longer accept migrations. */
async function stuckOn(count: number): Promise<VmId[]> {
  await site.ledger.host.updateMany({ where: { id: { not: host.id } }, data: { schedulable: false, acceptsMigrations: false } });
  for (let i = 0; i < count; i++) {
    const parsed = VmRequest.parse({ name: `vm-${i}`, image: await site.publishImage(), firstBoot: ['true'] });
    const id = await site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order: parsed, nowMs: Date.now() }));
    alone.push(id);
    const args = [id, site.pace];
    await site.client.workflow.start(workflowType.vm, { taskQueue: controlQueue, workflowId: workflowId.vm(id), args });
  }
  for (const id of alone)
    await site.until(`${id} runs`, async () => {
      const { state, hostKey } = await rowOf(id);
      return state === 'running' && hostKey !== null;
    });
  await site.ledger.host.updateMany({ where: { id: { not: host.id } }, data: { schedulable: true } });
  return alone.toSorted();
}

async function remove(id: VmId): Promise<void> {
  await site.ledger.vm.update({ where: { id }, data: { removalRequestedAt: new Date() } });
  await notifyVm(id);
  await site.client.workflow.getHandle(workflowId.vm(id)).result();
}

/** Requests an operation as the owner of the VM does. */
async function operate(id: VmId, operation: 'suspend' | 'restore'): Promise<void> {
  if (await site.ledger.$transaction((tx) => acceptOperation(tx, id, operation, Date.now()))) await notifyVm(id);
  await site.until(`${id} has had its ${operation}`, async () => (await rowOf(id)).operation === null);
}

/** Nothing of the VM runs, and its complete memory is saved on the host. */
async function expectInPlace(drain: RequestedDrain, vms: VmId[]): Promise<void> {
  for (const id of vms) {
    expect((await rowOf(id)).state).toBe('suspended');
    expect(site.hosts.filter((one) => one.domains.has(id))).toEqual([]);
    expect([...host.memories].filter(([path]) => path.includes(id)).map(([, memory]) => memory.complete)).toEqual([true]);
  }
  expect((await readSuspendedInPlace(site.ledger, [drain.id])).map(({ vm }) => vm)).toEqual(vms);
}

interface RequestedDrain {
  id: DrainId;
  workflow: string;
}

async function ask(seconds: number, more: Partial<DrainRequest> = {}): Promise<RequestedDrain> {
  const nowMs = Date.now();
  const order: DrainRequest = {
    host: host.id,
    deadlineMs: nowMs + seconds * 1000,
    strategy: 'parallel',
    mode: 'auto',
    moveDisks: false,
    suspendInPlace: 'never',
    confidence: 0.9,
    returnAfterMs: null,
    returnVms: true,
    owner: site.owner,
    reason: null,
    nowMs,
    ...more,
  };
  const id = await site.ledger.$transaction((tx) => acceptDrain(tx, order));
  const { number } = await site.ledger.drain.findUniqueOrThrow({ where: { id } });
  return { id, workflow: workflowId.drain(host.id, number) };
}

async function begin({ id, workflow }: RequestedDrain): Promise<void> {
  await site.client.workflow.start(workflowType.drain, { taskQueue: controlQueue, workflowId: workflow, args: [id, 0.2] });
}

const drainOf = (id: DrainId) => site.ledger.drain.findUniqueOrThrow({ where: { id } });
const over = ({ workflow }: RequestedDrain): Promise<DrainState> => site.client.workflow.getHandle(workflow).result();
const changed = ({ workflow }: RequestedDrain) => site.client.workflow.getHandle(workflow).signal(signalName.orderChanged);
const change = async (requested: RequestedDrain, data: Parameters<typeof site.ledger.drain.update>[0]['data']): Promise<void> => {
  await site.ledger.drain.update({ where: { id: requested.id }, data });
  await changed(requested);
};

/** A deadline that requires an immediate start, whatever was promised. */
const soon = () => ({ deadline: new Date(Date.now() + 500) });

/** Every VM runs once, where the ledger says; `empty`: none of them on the host. */
async function expectWhole(vms: VmId[]): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for (const vm of vms) {
    const row = await site.ledger.vm.findUniqueOrThrow({ where: { id: vm } });
    const at = site.hosts.filter((one) => one.domains.has(vm)).map(({ id }) => id);
    expect([row.state, at]).toEqual(['running', [row.hostId]]);
    counts.set(row.hostId!, (counts.get(row.hostId!) ?? 0) + 1);
  }
  for (const one of site.hosts) expect(one.violations).toEqual([]);
  return counts;
}

async function eventsOf({ id }: RequestedDrain): Promise<string[]> {
  const events = await site.ledger.event.findMany({ where: { subject: id }, orderBy: { seq: 'asc' } });
  return events.map(({ type }) => type.replace('berth.drain.', ''));
}

test('a host is emptied, its VMs are spread over the others, and no command is disturbed', async () => {
  const vms = await runningOn(4);
  const drain = await ask(3600);
  await begin(drain);
  await change(drain, soon());
  expect(await over(drain)).toBe('empty');
  expect(await expectWhole(vms)).toEqual(
    new Map([
      [site.hosts[1]!.id, 2],
      [site.hosts[2]!.id, 2],
    ]),
  );
  expect(host.domains.size).toBe(0);
  const row = await drainOf(drain.id);
  expect([row.startedAt, row.emptiedAt, row.predictedS, row.boundS]).not.toContain(null);
  expect(await eventsOf(drain)).toEqual(['accepted', 'started', 'emptied']);
  // The host remains closed: that is the purpose of the drain.
  expect(await site.ledger.host.findUniqueOrThrow({ where: { id: host.id } })).toMatchObject({
    schedulable: false,
    acceptsMigrations: false,
  });
});

test('in a cold drain VMs are copied as files and resume at their targets, and the measured rates are recorded', async () => {
  const vms = await runningOn(2);
  const drain = await ask(3600, { mode: 'cold' });
  await begin(drain);
  await change(drain, soon());
  expect(await over(drain)).toBe('empty');
  const counts = await expectWhole(vms);
  expect([...counts.values()]).toEqual([1, 1]);
  const moves = await site.ledger.migration.findMany({ where: { requestedBy: drain.id } });
  expect(moves.map(({ mode, state }) => [mode, state])).toEqual(vms.map(() => ['cold', 'succeeded']));
  const learned = await site.ledger.measurement.findMany({ where: { vmId: { in: vms } }, orderBy: { kind: 'asc' } });
  expect(learned.map(({ kind }) => kind)).toEqual(['suspend', 'suspend', 'copy', 'copy', 'resume', 'resume'].sort());
});

test('with the disks of its VMs, also of those that run on other hosts, nothing of any of them remains on the host', async () => {
  const vms = await runningOn(2);
  const moving = await site.ledger.$transaction((tx) =>
    acceptMigration(tx, {
      vm: vms[0]!,
      to: site.hosts[1]!.id,
      coldFallback: false,
      requestedBy: site.owner,
      reason: null,
      nowMs: Date.now(),
    }),
  );
  const { generation } = await site.ledger.migration.findUniqueOrThrow({ where: { id: moving } });
  const workflow = workflowId.migration(vms[0]!, generation);
  await site.client.workflow.execute(workflowType.migration, {
    taskQueue: controlQueue,
    workflowId: workflow,
    args: [moving, 0.2],
  });
  const homes = async () =>
    (await site.ledger.vm.findMany({ where: { id: { in: vms } }, orderBy: { id: 'asc' } })).map((vm) => [vm.hostId, vm.homeId]);
  expect((await homes())[0]).toEqual([site.hosts[1]!.id, host.id]);
  const drain = await ask(3600, { moveDisks: true });
  await begin(drain);
  await change(drain, soon());
  expect(await over(drain)).toBe('empty');
  await expectWhole(vms);
  for (const [at, home] of await homes()) expect([at === host.id, home]).toEqual([false, at]);
  expect([...host.records.keys()].filter((id) => vms.includes(id as VmId))).toEqual([]);
  const learned = await site.ledger.measurement.findMany({ where: { vmId: { in: vms }, kind: 'disks' } });
  expect(learned.map(({ vmId }) => vmId).toSorted()).toEqual(vms.toSorted());
});

test('it begins no earlier than necessary, and reports until when it waits', async () => {
  const vms = await runningOn(1);
  const drain = await ask(3600);
  await begin(drain);
  await site.until('it has a plan', async () => (await site.detailsOf(drain.workflow)).includes('**waiting**'));
  expect(await expectWhole(vms)).toEqual(new Map([[host.id, 1]]));
  const { plan, deadline } = await drainOf(drain.id);
  const outline = plan as unknown as DrainOutline;
  expect(deadline.getTime() - Date.parse(outline.startAt)).toBeCloseTo((outline.boundS + startMarginS) * 1000, -2);
  // The deadline is moved forward: the drain begins at once.
  await change(drain, soon());
  expect(await over(drain)).toBe('empty');
});

test('a paused drain starts no move; a resumed one continues', async () => {
  const vms = await runningOn(2);
  const drain = await ask(3600);
  await begin(drain);
  await change(drain, { state: 'paused', ...soon() });
  await site.until('it is paused', async () => (await site.detailsOf(drain.workflow)).includes('**paused**'));
  expect(await expectWhole(vms)).toEqual(new Map([[host.id, 2]]));
  await change(drain, { state: 'waiting' });
  expect(await over(drain)).toBe('empty');
  await expectWhole(vms);
});

test.each(['waiting', 'moving'])('cancelled while it is %s, it leaves VMs where they are and opens the host', async (state) => {
  const vms = await runningOn(3);
  const drain = await ask(3600, { strategy: 'sequential' });
  await begin(drain);
  if (state === 'moving') await change(drain, soon());
  await site.until(`it is ${state}`, async () => (await drainOf(drain.id)).state === state);
  await change(drain, { cancelRequestedAt: new Date() });
  expect(await over(drain)).toBe('cancelled');
  await expectWhole(vms);
  expect(await site.ledger.host.findUniqueOrThrow({ where: { id: host.id } })).toMatchObject({
    schedulable: true,
    acceptsMigrations: true,
  });
});

test('cancelled with return, it moves back the VMs that have left', async () => {
  const vms = await runningOn(3);
  const drain = await ask(3600, { strategy: 'sequential' });
  await begin(drain);
  await change(drain, soon());
  await site.until(
    'one has left',
    async () => (await site.ledger.vm.count({ where: { hostId: { not: host.id }, state: 'running' } })) > 0,
  );
  await change(drain, { cancelRequestedAt: new Date(), goBack: true });
  expect(await over(drain)).toBe('cancelled');
  expect(await expectWhole(vms)).toEqual(new Map([[host.id, 3]]));
});

test.each([
  [false, 'leaves its VMs where they are'],
  [true, 'brings them back'],
])('cancelled while the host is held (goBack: %s), it opens it and %s', async (goBack) => {
  const vms = await runningOn(2);
  const drain = await ask(3600, { returnAfterMs: Date.now() + 7200_000 });
  await begin(drain);
  await change(drain, soon());
  await site.until('it is held', async () => (await drainOf(drain.id)).state === 'held');
  await change(drain, { cancelRequestedAt: new Date(), goBack });
  expect(await over(drain)).toBe('cancelled');
  expect((await expectWhole(vms)).get(host.id) ?? 0).toBe(goBack ? 2 : 0);
  expect(await site.ledger.host.count({ where: { schedulable: false } })).toBe(0);
});

test('cancelled while its VMs return, it returns no more of them', async () => {
  const vms = await runningOn(3);
  const drain = await ask(3600, { returnAfterMs: Date.now() + 7200_000 });
  await begin(drain);
  await change(drain, soon());
  await site.until('it is held', async () => (await drainOf(drain.id)).state === 'held');
  // Not before its deadline, which a host that was emptied fast has yet to see.
  await change(drain, { returnAfter: new Date(Date.now() + 500) });
  await site.until('they come back', async () => (await drainOf(drain.id)).state === 'returning');
  await change(drain, { cancelRequestedAt: new Date(), goBack: false });
  expect(await over(drain)).toBe('cancelled');
  expect((await expectWhole(vms)).get(host.id) ?? 0).toBeLessThan(3);
});

test('paused while it moves VMs, it completes the moves in progress, and starts no more', async () => {
  const vms = await runningOn(3);
  const drain = await ask(3600, { strategy: 'sequential' });
  await begin(drain);
  await change(drain, soon());
  // The image has to be fetched before any VM moves.
  await site.until('one moves', async () => (await site.ledger.migration.count({ where: { requestedBy: drain.id } })) === 1);
  await change(drain, { state: 'paused' });
  await site.until('nothing moves', async () => (await site.ledger.migration.count({ where: { state: 'running' } })) === 0);
  expect((await expectWhole(vms)).get(host.id)).toBe(2);
  await change(drain, { state: 'waiting' });
  expect(await over(drain)).toBe('empty');
});

test('a host with a return time gets its VMs back at that time', async () => {
  const vms = await runningOn(2);
  const drain = await ask(3600, { returnAfterMs: Date.now() + 7200_000 });
  await begin(drain);
  await change(drain, { ...soon(), returnAfter: new Date(Date.now() + 500) });
  expect(await over(drain)).toBe('returned');
  expect(await expectWhole(vms)).toEqual(new Map([[host.id, 2]]));
  expect(await eventsOf(drain)).toEqual(['accepted', 'started', 'emptied', 'returned']);
});

test('a VM that no host can take blocks: a drain is refused beforehand, or ends with a list of what remains', async () => {
  const vms = await runningOn(2, { resources: { vcpus: 1, memoryMiB: 128, diskMiB: 64 } });
  const drain = await ask(3600);
  await site.ledger.host.updateMany({ where: { id: { not: host.id } }, data: { acceptsMigrations: false } });
  await begin(drain);
  await change(drain, soon());
  expect(await over(drain)).toBe('incomplete');
  expect((await drainOf(drain.id)).remaining).toEqual(
    vms.map((what) => ({ what, why: 'no host can take it (host-2: closed, host-3: closed)' })),
  );
  await expectWhole(vms);
  await site.ledger.host.update({ where: { id: host.id }, data: { acceptsMigrations: true } });
  await expect(ask(3600)).rejects.toMatchObject({ code: 'drain-impossible' });
});

test('a drain replaces a target whose worker is gone by another one', async () => {
  const vms = await runningOn(2);
  const lost = site.hosts[1]!;
  await site.stopWorker(lost.id);
  const drain = await ask(3600);
  await begin(drain);
  await change(drain, soon());
  await site.until(
    'the silent one is known',
    async () => (await site.ledger.host.findUniqueOrThrow({ where: { id: lost.id } })).state === 'unknown',
  );
  expect(await over(drain)).toBe('empty');
  expect(await expectWhole(vms)).toEqual(new Map([[site.hosts[2]!.id, 2]]));
  await site.startHost(lost);
});

test('a VM whose dirty rate rises makes the drain begin earlier', async () => {
  // The fakes of the tests before have a bandwidth at which no dirty rate matters.
  await site.ledger.measurement.deleteMany();
  const vms = await runningOn(1);
  const drain = await ask(3600);
  await begin(drain);
  const startAt = async () => Date.parse(((await drainOf(drain.id)).plan as unknown as DrainOutline).startAt);
  await site.until('it was observed', async () => (await site.ledger.vmLoad.count({ where: { vmId: vms[0]! } })) === 1);
  const before = await startAt();
  host.loads.set(vms[0]!, { residentMiB: 200, dirtyMiBPerS: 100_000 });
  await site.until('it begins earlier', async () => {
    await changed(drain);
    return (await startAt()) < before - 1000;
  });
  await change(drain, { cancelRequestedAt: new Date() });
  await over(drain);
});

test('a host has one drain at a time, and nothing else opens the host meanwhile', async () => {
  const drain = await ask(3600);
  await expect(ask(3600)).rejects.toMatchObject({ code: 'conflict' });
  await expect(site.ledger.host.update({ where: { id: host.id }, data: { schedulable: true } })).rejects.toThrow('being emptied');
  await begin(drain);
  // A host without VMs is empty at once.
  expect(await over(drain)).toBe('empty');
});

test('a VM that no other host can take is suspended in place, after the moves, and runs again before the host is opened', async () => {
  const [moving] = await runningOn(1);
  const stuck = await stuckOn(2);
  const target = site.hosts[1]!;
  // Capacity for one VM, on a host that has its image: so that only the order can delay anything.
  await site.ledger.host.update({ where: { id: target.id }, data: { acceptsMigrations: true, memoryMiB: 300 } });
  const { imageId } = await rowOf(moving!);
  target.images.set(imageId as ImageId, { boots: true, pinnedUntilMs: 0 });
  await site.ledger.hostImage.create({ data: { hostId: target.id, imageId: imageId! } });
  const drain = await ask(3600, { suspendInPlace: 'ifStuck', returnAfterMs: Date.now() + 7200_000, strategy: 'sequential' });
  const outline = (await drainOf(drain.id)).plan as unknown as DrainOutline;
  expect([outline.moves.map(({ vm }) => vm), outline.suspensions.map(({ vm }) => vm).sort()]).toEqual([[moving], stuck]);
  await begin(drain);
  await change(drain, soon());
  await site.until('it is held', async () => (await drainOf(drain.id)).state === 'held');
  await expectInPlace(drain, stuck);
  await expectWhole([moving!]);
  expect(host.domains.size).toBe(0);
  const moved = await site.ledger.migration.findFirstOrThrow({ where: { requestedBy: drain.id } });
  const suspended = await site.ledger.event.findMany({ where: { subject: { in: stuck }, type: 'berth.vm.suspended' } });
  for (const { time } of suspended) expect(time.getTime()).toBeGreaterThanOrEqual(moved.committedAt!.getTime());
  const emptied = await site.ledger.event.findFirstOrThrow({ where: { subject: drain.id, type: 'berth.drain.emptied' } });
  expect(emptied.data).toMatchObject({ suspended: stuck });
  await change(drain, { returnAfter: new Date(Date.now() + 500) });
  expect(await over(drain)).toBe('returned');
  expect(await expectWhole([...stuck, moving!])).toEqual(new Map([[host.id, 3]]));
  const restored = await site.ledger.event.findMany({ where: { subject: { in: stuck }, type: 'berth.vm.restored' } });
  expect([suspended.length, restored.length]).toEqual([2, 2]);
  expect(await readSuspendedInPlace(site.ledger, [drain.id])).toEqual([]);
  await site.ledger.host.update({ where: { id: target.id }, data: { memoryMiB: 65_536 } });
});

test('until its host is opened, a VM suspended in place is not restored, by any request of its owner', async () => {
  const [vm] = await stuckOn(1);
  const drain = await ask(3600, { suspendInPlace: 'ifStuck' });
  await begin(drain);
  await change(drain, soon());
  expect(await over(drain)).toBe('empty');
  await expectInPlace(drain, [vm!]);
  await expect(operate(vm!, 'restore')).rejects.toThrow(`until host ${host.id} is opened`);
  await expect(site.ledgerSteps().beginRestoration(vm!)).rejects.toThrow(`it is restored when host ${host.id} is opened`);
  // As the opening does: its capacity is reserved at once.
  const released = await site.ledger.$transaction((tx) => releaseInPlace(tx, [drain.id], Date.now()));
  expect([released, (await rowOf(vm!)).state]).toEqual([[vm], 'restoring']);
  await notifyVm(vm!);
  await site.until('it runs', async () => (await rowOf(vm!)).operation === null);
  await expectWhole([vm!]);
});

test('a VM that its owner has suspended remains on the host, and is still suspended when the host is opened', async () => {
  const [vm] = await stuckOn(1);
  await operate(vm!, 'suspend');
  const drain = await ask(3600, { mode: 'live', suspendInPlace: 'ifStuck', returnAfterMs: Date.now() + 7200_000 });
  await begin(drain);
  await change(drain, soon());
  await site.until('it is held', async () => (await drainOf(drain.id)).state === 'held');
  await expectInPlace(drain, [vm!]);
  await expect(operate(vm!, 'restore')).rejects.toThrow('suspended in place');
  await change(drain, { returnAfter: new Date(Date.now() + 500) });
  expect(await over(drain)).toBe('returned');
  expect((await rowOf(vm!)).state).toBe('suspended');
  await operate(vm!, 'restore');
  await expectWhole([vm!]);
});

test.each(['moving', 'held'])(
  'cancelled while it is %s, it restores what it has suspended, and only then opens the host',
  async (state) => {
    const vms = await stuckOn(2);
    const drain = await ask(3600, { suspendInPlace: 'ifStuck', strategy: 'sequential', returnAfterMs: Date.now() + 7200_000 });
    await begin(drain);
    await change(drain, soon());
    await site.until(`it is ${state}, and one is suspended`, async () => {
      const asleep = await site.ledger.vm.count({ where: { id: { in: vms }, state: { in: ['suspending', 'suspended'] } } });
      return (await drainOf(drain.id)).state === state && asleep > 0;
    });
    await change(drain, { cancelRequestedAt: new Date() });
    expect(await over(drain)).toBe('cancelled');
    expect(await expectWhole(vms)).toEqual(new Map([[host.id, 2]]));
    expect(await site.ledger.host.findUniqueOrThrow({ where: { id: host.id } })).toMatchObject({ schedulable: true });
  },
);

test('a VM that can’t be suspended blocks the drain, with the reason', async () => {
  const day = 86_400;
  const [promised] = await stuckOn(1);
  const { leaseId } = await rowOf(promised!);
  const startAt = new Date();
  const endAt = new Date(startAt.getTime() + day * 1000);
  const { count } = await site.ledger.lease.updateMany({
    where: { id: leaseId! },
    data: { kind: 'immediate', startAt, endAt, durationS: day, plannedHosts: [host.id], preemptible: false },
  });
  expect(count).toBe(1);
  const [ofTask] = await runningOn(1);
  const refused = ask(3600, { suspendInPlace: 'ifStuck' });
  await expect(refused).rejects.toMatchObject({ code: 'drain-impossible' });
  await expect(refused).rejects.toThrow(
    `${promised}: no host can take it (host-2: closed, host-3: closed); and it can't be suspended there: its time`,
  );
  await expect(refused).rejects.toThrow(
    `${ofTask}: no host can take it (host-2: closed, host-3: closed); and it can't be suspended there: it belongs`,
  );
});

test('a VM that refuses its suspension is tried twice, and then blocks the drain', async () => {
  const [vm] = await stuckOn(1);
  const drain = await ask(3600, { suspendInPlace: 'ifStuck' });
  await begin(drain);
  const refusing = host.ports.hypervisor.save;
  host.ports.hypervisor.save = async () => {
    throw new BerthError('disk-full', 'no room for its memory');
  };
  try {
    await change(drain, soon());
    expect(await over(drain)).toBe('incomplete');
  } finally {
    host.ports.hypervisor.save = refusing;
  }
  const { remaining } = await drainOf(drain.id);
  expect(remaining).toMatchObject([
    { what: vm, why: expect.stringMatching(/can't be suspended there: it was tried 2 times: .*no room/) },
  ]);
  await expectWhole([vm!]);
});

test('the time until a VM is as busy as before is measured after its move, and predicted for the next one', async () => {
  const [vm] = await runningOn(1);
  host.loads.set(vm!, { busyCpus: 0.8 });
  for (const one of site.hosts.slice(1)) one.loads.set(vm!, { busyCpus: 0.85 });
  const drain = await ask(3600);
  await begin(drain);
  await site.until(
    'it was observed',
    async () => (await site.ledger.vmLoad.count({ where: { vmId: vm!, busyCpus: 0.8 } })) === 1,
  );
  await change(drain, soon());
  expect(await over(drain)).toBe('empty');
  const { id } = await site.ledger.migration.findFirstOrThrow({ where: { requestedBy: drain.id } });
  const watching = site.client.workflow.getHandle(workflowId.recovery(id as MigrationId));
  expect(await watching.result()).toBe(true);
  const { recoveryS } = await site.ledger.measurement.findUniqueOrThrow({ where: { id: `${id}/live` } });
  expect(recoveryS).toBeGreaterThan(0);
  const { hostId } = await rowOf(vm!);
  const { plan } = await drainOf((await ask(3600, { host: hostId! })).id);
  expect((plan as unknown as DrainOutline).moves).toMatchObject([{ vm, recoveryS }]);
  await site.ledger.drain.updateMany({
    where: { hostId: hostId!, finishedAt: null },
    data: { state: 'cancelled', finishedAt: new Date() },
  });
});
