import { WorkflowNotFoundError } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { acceptOperation, acceptVm } from '../../ledger/vms/accept-vm.ts';
import { BerthError } from '../../model/errors.ts';
import { VmRemovedData } from '../../model/events.ts';
import type { VmId } from '../../model/ids.ts';
import type { MigrationState } from '../../model/migration.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { type VmOperation, VmRequest } from '../../model/vm-request.ts';
import { expectEmptySite, tracesOf } from './everything-or-nothing.ts';
import { addressOf, type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyRestart, everyRun, type Fault, faultsBut, faultsOfVariant } from './faults.ts';

vi.setConfig({ maxConcurrency: 10, testTimeout: 240_000 });

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite();
});
afterAll(() => site.stop());

let made = 0;

async function accept(order: Record<string, unknown> = {}): Promise<VmId> {
  made += 1;
  const name = `vm-${made}`;
  const image = await site.publishImage();
  const parsed = VmRequest.parse({ name, image, firstBoot: ['true'], ...order });
  return site.ledger.$transaction((tx) => acceptVm(tx, { owner: site.owner, order: parsed, nowMs: Date.now() }));
}

const start = (id: VmId) =>
  site.client.workflow.start(workflowType.vm, { taskQueue: controlQueue, workflowId: workflowId.vm(id), args: [id, site.pace] });
const handleOf = (id: VmId) => site.client.workflow.getHandle(workflowId.vm(id));
/** Also where its workflow has just been ended from outside, and is started again. */
const notifyVm = (id: VmId) =>
  site.until(`${id} is notified`, async () => {
    try {
      await handleOf(id).signal(signalName.operationRequested);
      return true;
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) return false;
      throw error;
    }
  });
const rowOf = (id: VmId) => site.ledger.vm.findUniqueOrThrow({ where: { id } });
const over = (id: VmId) =>
  site.until(
    `${id} is over`,
    async () => (await rowOf(id)).state === 'removed' && (await handleOf(id).describe()).status.name === 'COMPLETED',
  );

/** Running, with its guest as requested, or removed because it could not be created. */
const isMade = async (id: VmId): Promise<boolean> => {
  const { state, hostKey } = await rowOf(id);
  return state === 'removed' || (state === 'running' && hostKey !== null);
};

async function operate(id: VmId, operation: VmOperation): Promise<void> {
  const begins = await site.ledger.$transaction((tx) => acceptOperation(tx, id, operation, Date.now()));
  if (!begins) return;
  await notifyVm(id);
  await site.until(`${id} has had its ${operation}`, async () => (await rowOf(id)).operation === null);
}

async function remove(id: VmId): Promise<void> {
  await site.ledger.vm.update({ where: { id }, data: { removalRequestedAt: new Date() } });
  await notifyVm(id);
  await over(id);
}

/** The ledger and the hosts agree on a VM on which no operation is running. */
async function expectAgreement(id: VmId): Promise<void> {
  const { state, hostId } = await rowOf(id);
  const host = site.hosts.find((one) => one.id === hostId)!;
  const domain = host.domains.get(id)?.status.state ?? null;
  const memories = [...host.memories].filter(([path]) => path.includes(id)).map(([, memory]) => memory.complete);
  const expected: Record<string, [string | null, boolean[]]> = {
    running: ['running', []],
    paused: ['paused', []],
    suspended: [null, [true]],
    removed: [null, []],
  };
  expect([state, domain, memories]).toEqual([state, ...(expected[state] ?? ['no such rest', []])]);
}

const operations: VmOperation[] = ['pause', 'resume', 'suspend', 'restore', 'reboot'];
const legal: Record<VmOperation, string> = {
  pause: 'running',
  resume: 'paused',
  suspend: 'running',
  restore: 'suspended',
  reboot: 'running',
};

/** From its acceptance to its removal, with each operation on the way, as far as the one before permits it. */
async function life(id: VmId): Promise<void> {
  await site.until(`${id} is made`, () => isMade(id));
  await expectAgreement(id);
  for (const operation of operations) {
    if ((await rowOf(id)).state !== legal[operation]) continue;
    await operate(id, operation);
    await expectAgreement(id);
  }
  if ((await rowOf(id)).state !== 'removed') await remove(id);
  else await over(id);
}

async function expectGone(id: VmId): Promise<void> {
  expect((await rowOf(id)).state).toBe('removed');
  expect(tracesOf(site, [id])).toEqual([]);
  const events = await site.ledger.event.findMany({ where: { subject: id }, orderBy: { seq: 'asc' } });
  const types = events.map(({ type }) => type);
  expect(types.filter((type) => type === 'berth.vm.created')).toHaveLength(1);
  expect(types.filter((type) => type === 'berth.vm.removed')).toHaveLength(1);
  expect(types.filter((type) => type === 'berth.vm.suspended').length).toBeLessThanOrEqual(1);
  const { usage } = VmRemovedData.parse(events.find(({ type }) => type === 'berth.vm.removed')!.data);
  // One range after the other: the list names none twice.
  for (const [index, one] of usage.entries())
    if (index > 0) expect(Date.parse(one.startedAt)).toBeGreaterThanOrEqual(Date.parse(usage[index - 1]!.endedAt));
}

/** The steps that create it: after a refusal of any of these, the VM is undone. */
const making = [
  'reserveVm',
  'issueVmSetup',
  'stageIn',
  'recordImageCached',
  'ensureRunning',
  'recordVmStarted',
  'customizeVm',
  'recordVmCustomized',
];
const isMaking = ({ name, nth }: Call): boolean => nth === 1 && (making.includes(name) || name === 'setVmState');
const cleanRun: Call[] = [
  ...making,
  ...['pauseVm', 'resumeVm', 'beginSuspension', 'suspendVm', 'commitSuspension'],
  ...['beginRestoration', 'restoreVm', 'commitRestoration', 'rebootVm', 'removeVm', 'finishVm', 'loadVmLocation'],
].map((name) => ({ name, nth: 1 }));
cleanRun.push(
  ...[1, 2].map((nth) => ({ name: 'loadVmDesired', nth })),
  ...[1, 2, 3].map((nth) => ({ name: 'beginOperation', nth })),
  ...[1, 2, 3, 4, 5].map((nth) => ({ name: 'endOperation', nth })),
  ...[1, 2].map((nth) => ({ name: 'setVmState', nth })),
);

test('the matrix covers every call of a VM; only the number of its polls varies', async () => {
  const id = await accept();
  await start(id);
  await life(id);
  await expectGone(id);
  const calls = site.faults.callsOf(workflowId.vm(id)).map(({ name, nth }) => `${name} ${nth}`);
  const known = cleanRun.map(({ name, nth }) => `${name} ${nth}`);
  expect(calls.filter((call) => !known.includes(call) && !call.startsWith('loadVmDesired'))).toEqual([]);
  expect(known.filter((call) => !calls.includes(call))).toEqual([]);
});

// No request cancels the workflow of a VM: it is notified that the VM has to be removed.
test.concurrent.each(everyRun(cleanRun, faultsBut('cancelled')))('$at: $what', async ({ calls, fault }) => {
  const id = await accept();
  site.faults.plan(workflowId.vm(id), calls, fault);
  await start(id);
  // A VM whose last step of these took effect and was then refused appears created until it is undone: no operation is
  // requested of it.
  if (fault.startsWith('refused') && calls.some(isMaking)) await over(id);
  else await life(id);
  expect(site.faults.fired(workflowId.vm(id))).toBe(true);
  const before = await rowOf(id);
  if (fault === 'late') await site.faults.runLate(workflowId.vm(id));
  expect(await rowOf(id)).toEqual(before);
  await expectGone(id);
});

// The first call loads the row: the workflow that is ended there is as one that was never started.
test.concurrent.each(everyRestart(cleanRun.filter(({ name }) => name !== 'loadVmDesired')))(
  '$name $nth: $what',
  async ({ fault, ...call }) => {
    const id = await accept();
    const workflow = workflowId.vm(id);
    site.faults.plan(workflow, call, fault);
    await start(id);
    await life(id);
    expect(site.faults.restarted(workflow)).toBe(true);
    await expectGone(id);
  },
);

describe('a VM without a task', () => {
  test('gets new signed URLs when those of its files and its image have expired', async () => {
    const id = await accept();
    site.faults.plan(workflowId.vm(id), { name: 'stageIn', nth: 1 }, 'refusedAfter', 'forbidden');
    await start(id);
    await site.until(`${id} is made`, () => isMade(id));
    expect((await rowOf(id)).state).toBe('running');
    expect(site.faults.callsOf(workflowId.vm(id))).toContainEqual({ name: 'issueVmSetup', nth: 2 });
    await remove(id);
    await expectGone(id);
  });

  test('is removed when its lease ends', async () => {
    const id = await accept({ lease: { durationS: 2 } });
    await start(id);
    await over(id);
    await expectGone(id);
    expect((await rowOf(id)).problem).toMatchObject({ code: 'lease-expired' });
  });

  test('can be deleted while it is being created, and while it waits for a host', async () => {
    const [boots, waits] = [await accept(), await accept({ resources: { vcpus: 64, memoryMiB: 60_000, diskMiB: 64 } })];
    site.faults.plan(workflowId.vm(boots), { name: 'ensureRunning', nth: 1 }, 'killedBefore');
    await Promise.all([start(boots), start(waits)]);
    await site.until('it boots', async () => (await rowOf(boots)).state === 'creating');
    await Promise.all([remove(boots), remove(waits)]);
    await expectGone(boots);
    await expectGone(waits);
  });

  async function running(): Promise<{ id: VmId; host: FakeHost }> {
    const id = await accept();
    await start(id);
    await site.until('it runs', () => isMade(id));
    return { id, host: site.hosts.find((one) => one.domains.has(id))! };
  }
  /** By the host's report alone: reconciliation needs two rounds of a minute, at this pace. */
  const becomes = (id: VmId, state: string) =>
    site.until(`${id} is ${state}`, async () => (await rowOf(id)).state === state, 30_000);

  const isOver = (id: VmId) => site.until('it is over', async () => (await rowOf(id)).operation === null);

  async function endsWell(id: VmId): Promise<void> {
    expect((await rowOf(id)).state).toBe('running');
    await expectAgreement(id);
    await remove(id);
    await expectGone(id);
  }

  describe.concurrent('whose domain changes without Berth', () => {
    test.each([
      ['stopped', 'powered-off', (host: FakeHost, id: VmId) => host.powerOff(id)],
      ['crashed', 'guest-crashed', (host: FakeHost, id: VmId) => host.crashDomain(id)],
    ] as const)('is %s (%s) at once, and boots again from its disks', async (state, code, end) => {
      const { id, host } = await running();
      end(host, id);
      await becomes(id, state);
      expect((await rowOf(id)).problem).toMatchObject({ code });
      await operate(id, 'reboot');
      await endsWell(id);
    });

    test.each(
      (['suspend', 'pause', 'reboot'] as const).flatMap((operation) => [
        { state: 'stopped', code: 'powered-off', operation, end: (host: FakeHost, id: VmId) => host.powerOff(id) },
        { state: 'crashed', code: 'guest-crashed', operation, end: (host: FakeHost, id: VmId) => host.crashDomain(id) },
      ]),
    )('is $state, not stuck, where it ended so before its $operation', async ({ state, code, operation, end }) => {
      const { id, host } = await running();
      // Nobody has noticed yet.
      await site.ledger.$transaction((tx) => acceptOperation(tx, id, operation, Date.now()));
      end(host, id);
      await notifyVm(id);
      await site.until('it is over', async () => (await rowOf(id)).operation === null);
      expect(await rowOf(id)).toMatchObject({ state, problem: { code } });
      await operate(id, 'reboot');
      await endsWell(id);
    });

    test.each([
      ['operator', { state: 'paused', reason: 'user' }],
      ['ioError', { state: 'paused', reason: 'I/O error' }],
      ['guest', { state: 'pmsuspended', reason: 'unknown' }],
    ] as const)('is paused by %s, and its owner resumes it', async (by, status) => {
      const { id, host } = await running();
      host.changeDomain(id, status);
      await becomes(id, 'paused');
      expect((await rowOf(id)).pausedBy).toBe(by);
      await operate(id, 'resume');
      await expectAgreement(id);
      host.changeDomain(id, status);
      await becomes(id, 'paused');
      await operate(id, 'suspend');
      await expectAgreement(id);
      await operate(id, 'restore');
      await expectAgreement(id);
      host.changeDomain(id, status);
      await becomes(id, 'paused');
      await operate(id, 'reboot');
      await endsWell(id);
    });

    test.each([
      ['resume', { state: 'paused', reason: 'user' }, 'running'],
      ['pause', { state: 'running', reason: 'unpaused' }, 'paused'],
    ] as const)('is asked to %s before the opposite was noticed, and is so', async (operation, status, state) => {
      const { id, host } = await running();
      if (operation === 'pause') await operate(id, 'pause');
      // The request is there when the ledger is told.
      await expect(site.ledger.$transaction((tx) => acceptOperation(tx, id, operation, Date.now()))).resolves.toBe(true);
      host.changeDomain(id, status);
      await notifyVm(id);
      await isOver(id);
      expect([(await rowOf(id)).state, host.domains.get(id)!.status.state]).toEqual([state, state]);
      if (operation === 'pause') await operate(id, 'resume');
      await endsWell(id);
    });

    test('stays as it was where a repeated pause or resume is refused', async () => {
      const { id, host } = await running();
      for (const [operation, state] of [
        ['resume', 'running'],
        ['pause', 'paused'],
      ] as const) {
        if (state === 'paused') await operate(id, 'pause');
        site.faults.plan(workflowId.vm(id), { name: `${operation}Vm`, nth: state === 'paused' ? 2 : 1 }, 'refusedBefore');
        await operate(id, operation);
        expect(await rowOf(id)).toMatchObject({ state, problem: { code: 'disk-full' } });
        expect(host.domains.get(id)!.status.state).toBe(state);
      }
      await operate(id, 'resume');
      await endsWell(id);
    });

    test('runs again when somebody at its host resumes it', async () => {
      const { id, host } = await running();
      await operate(id, 'pause');
      host.changeDomain(id, { state: 'running', reason: 'unpaused' });
      await becomes(id, 'running');
      await endsWell(id);
    });

    test('is paused, suspended and deleted also where its guest sleeps', async () => {
      const { id, host } = await running();
      const sleep = () => host.changeDomain(id, { state: 'pmsuspended', reason: 'unknown' });
      await site.ledger.$transaction((tx) => acceptOperation(tx, id, 'pause', Date.now()));
      sleep();
      await notifyVm(id);
      await becomes(id, 'paused');
      await isOver(id);
      await operate(id, 'resume');
      await site.ledger.$transaction((tx) => acceptOperation(tx, id, 'suspend', Date.now()));
      sleep();
      await notifyVm(id);
      await becomes(id, 'suspended');
      await isOver(id);
      await operate(id, 'restore');
      sleep();
      await becomes(id, 'paused');
      await remove(id);
      await expectGone(id);
    });

    test('runs again although its guest cannot be told who it is, and its owner is told', async () => {
      const { id, host } = await running();
      const { guest } = host.ports;
      const applyIdentity = guest.applyIdentity;
      guest.applyIdentity = async (domain, identity) => {
        if (domain === id) throw new BerthError('hypervisor', 'berth-identity: /etc/hostname: No space left on device');
        return applyIdentity(domain, identity);
      };
      for (const [there, back] of [
        ['suspend', 'restore'],
        ['pause', 'resume'],
      ] as const) {
        await operate(id, there);
        await operate(id, back);
        expect(await rowOf(id)).toMatchObject({ state: 'running', problem: { code: 'hypervisor' } });
      }
      guest.applyIdentity = applyIdentity;
      await endsWell(id);
    });
  });

  /** A migration to another host. @param plan injects faults */
  async function move(
    id: VmId,
    to: FakeHost,
    how: { mode: 'live' } | { mode: 'cold'; moveDisk: true },
    plan: (workflow: string) => void = () => undefined,
  ): Promise<MigrationState> {
    const owner = (await rowOf(id)).ownerId;
    for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
    const order = { ...how, vm: id, to: to.id, coldFallback: false, requestedBy: owner, reason: null, nowMs: Date.now() };
    const migration = await site.ledger.$transaction((tx) => acceptMigration(tx, order));
    const { generation } = await site.ledger.migration.findUniqueOrThrow({ where: { id: migration } });
    const workflow = workflowId.migration(id, generation);
    plan(workflow);
    const options = { taskQueue: controlQueue, workflowId: workflow, args: [migration, site.pace] };
    await site.client.workflow.start(workflowType.migration, options);
    return site.client.workflow.getHandle(workflow).result();
  }

  describe.concurrent('that is stopped moves with its disks, and boots from them where it is then', () => {
    const calls = ['packColdCopy', 'unpackColdCopy', 'commitMigration', 'removeColdLeftover'].map((name) => ({ name, nth: 1 }));

    async function movedAfterEnd(at: readonly Call[] | null, fault: Fault | null): Promise<void> {
      const { id, host } = await running();
      host.powerOff(id);
      await becomes(id, 'stopped');
      const target = site.hosts.find((one) => one !== host)!;
      let workflow = '';
      const state = await move(id, target, { mode: 'cold', moveDisk: true }, (planned) => {
        workflow = planned;
        if (at !== null && fault !== null) site.faults.plan(planned, at, fault);
      });
      if (at !== null) expect(site.faults.fired(workflow)).toBe(true);
      else expect(state).toBe('succeeded');
      const now = state === 'succeeded' ? target : host;
      const row = { state: 'stopped', hostId: now.id, homeId: now.id, problem: { code: 'powered-off' } };
      expect(await rowOf(id)).toMatchObject(row);
      const other = now === host ? target : host;
      await site.until('the other host has nothing of it', async () => !other.leftovers().some((trace) => trace.includes(id)));
      await operate(id, 'reboot');
      expect(now.domains.get(id)!.config.disks.map(({ source }) => source.kind)).toEqual(['file', 'file']);
      await endsWell(id);
    }

    test('without a fault', () => movedAfterEnd(null, null));
    test.each(everyRun(calls, faultsOfVariant))('$at: $what', ({ calls: struck, fault }) => movedAfterEnd(struck, fault));
  });

  test('that has moved without its disks boots again with those at its home', async () => {
    const { id, host } = await running();
    const target = site.hosts.find((one) => one !== host)!;
    await move(id, target, { mode: 'live' });
    expect(await rowOf(id)).toMatchObject({ state: 'running', hostId: target.id, homeId: host.id });
    target.powerOff(id);
    await becomes(id, 'stopped');
    await operate(id, 'reboot');
    expect(await rowOf(id)).toMatchObject({ state: 'running', hostId: target.id, homeId: host.id });
    const sources = target.domains.get(id)!.config.disks.map(({ source }) => source.kind);
    expect(sources).toEqual(['nfs', 'nfs']);
    await endsWell(id);
  });

  // One after the other: these end the domains, or the worker, of a host.
  describe('whose host changes', () => {
    test('has ended with its host, and boots again where its owner wants it always running', async () => {
      const { id, host } = await running();
      const always = await accept({ restart: 'always' });
      await start(always);
      await site.until('it runs', () => isMade(always));
      const itsHost = site.hosts.find((one) => one.domains.has(always))!;
      for (const one of new Set([host, itsHost])) {
        await site.stopWorker(one.id);
        one.restartMachine();
        await site.startHost(one);
      }
      await becomes(id, 'stopped');
      expect((await rowOf(id)).problem).toMatchObject({ code: 'host-restarted' });
      await site.until('it runs again', async () => (await rowOf(always)).state === 'running' && itsHost.domains.has(always));
      await isOver(always);
      await operate(id, 'reboot');
      await endsWell(id);
      await endsWell(always);
    });

    test('boots again where its host was restarted before an operation on it was done, and its owner wants it running', async () => {
      const id = await accept({ restart: 'always' });
      await start(id);
      await site.until('it runs', () => isMade(id));
      const host = site.hosts.find((one) => one.domains.has(id))!;
      await site.stopWorker(host.id);
      await site.ledger.$transaction((tx) => acceptOperation(tx, id, 'pause', Date.now()));
      await notifyVm(id);
      host.restartMachine();
      await site.startHost(host);
      await site.until('it runs again', async () => {
        const { state, operation } = await rowOf(id);
        return state === 'running' && operation === null && host.domains.has(id);
      });
      await endsWell(id);
    });

    test('that ends while no worker of its host runs is stopped when one is back', async () => {
      const { id, host } = await running();
      await site.stopWorker(host.id);
      host.powerOff(id);
      await site.startHost(host);
      await becomes(id, 'stopped');
      await operate(id, 'reboot');
      await endsWell(id);
    });
  });

  test('accepts one operation at a time, and refuses what its state does not allow', async () => {
    const id = await accept();
    await start(id);
    await site.until('it runs', () => isMade(id));
    const ask = (operation: VmOperation) => site.ledger.$transaction((tx) => acceptOperation(tx, id, operation, Date.now()));
    await expect(ask('restore')).resolves.toBe(false);
    await ask('suspend');
    await expect(ask('pause')).rejects.toMatchObject({ code: 'conflict' });
    await notifyVm(id);
    await site.until('it is suspended', async () => (await rowOf(id)).operation === null);
    await expect(ask('reboot')).rejects.toMatchObject({ code: 'conflict' });
    await remove(id);
    await expectGone(id);
  });
});

test('afterwards the site is empty', () => expectEmptySite(site));
