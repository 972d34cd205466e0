import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest';
import { createHostActivities } from '../../activities/host/index.ts';
import { inLanes } from '../../activities/host/step-lanes.ts';
import type { HostActivities } from '../../contracts/host.ts';
import type { FakeHost } from '../../drivers/fake/host.ts';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import { openBill } from '../../ledger/market/open-bill.ts';
import { findBill } from '../../ledger/market/read-bills.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import { inTransaction } from '../../ledger/transaction.ts';
import { acceptOperation, acceptVm } from '../../ledger/vms/accept-vm.ts';
import { newId, type VmId } from '../../model/ids.ts';
import { controlQueue, signalName, workflowId, workflowType } from '../../model/temporal.ts';
import { VmRequest } from '../../model/vm-request.ts';
import { expectEmptySite, tracesOf } from './everything-or-nothing.ts';
import { addressOf, type FakeSite, openFakeSite } from './fake-site.ts';
import { addPrices, collectNow, hourUnits, setMoney } from './money-on-site.ts';

vi.setConfig({ testTimeout: 240_000 });

/**
 * A buyer whose money ends in the middle of everything: while the host's own step of a migration, a suspension or a drain runs, its bill is
 * charged, warned of, and due again after the grace. It ends suspended, and then removed.
 */

let site: FakeSite;
/** What happens once, before a host's step of this name takes effect. */
let middle: { step: keyof HostActivities; act: () => Promise<void>; reached: boolean } | null = null;

const interrupted = (activities: HostActivities): HostActivities =>
  new Proxy(activities, {
    get: (target, name: keyof HostActivities) => {
      const step = target[name] as (...args: unknown[]) => Promise<unknown>;
      return async (...args: unknown[]) => {
        if (middle !== null && middle.step === name && !middle.reached) {
          middle.reached = true;
          await middle.act();
        }
        return step(...args);
      };
    },
    ownKeys: (target) => Reflect.ownKeys(target),
  });

beforeAll(async () => {
  site = await openFakeSite({ hostActivities: (host: FakeHost) => interrupted(inLanes(createHostActivities(host.ports))) });
  for (const one of site.hosts) for (const other of site.hosts) one.hostsByAddress.set(addressOf(other.id), other);
  await addPrices(site);
});
afterAll(() => site.stop());
afterEach(async () => {
  middle = null;
  await site.ledger.host.updateMany({ data: { schedulable: true, acceptsMigrations: true } });
  await expectEmptySite(site);
});

const rowOf = (id: VmId) => site.ledger.vm.findUniqueOrThrow({ where: { id } });
const notifyVm = (id: VmId) => site.client.workflow.getHandle(workflowId.vm(id)).signal(signalName.operationRequested);
const billOf = (id: VmId) => findBill(site.ledger, null, id);

/** A VM that runs, of an owner that has no more than the hold of an hour. */
async function poorVm(): Promise<VmId> {
  const owner = newId('owner');
  await site.ledger.owner.create({ data: { id: owner, name: owner } });
  await setMoney(site, owner, hourUnits);
  const order = VmRequest.parse({ name: 'poor', image: await site.publishImage(), firstBoot: ['true'] });
  const id = await inTransaction(site.ledger, async (tx) => {
    const nowMs = Date.now();
    const vm = await acceptVm(tx, { owner, order, nowMs });
    const { leaseId } = await tx.vm.findUniqueOrThrow({ where: { id: vm } });
    await openBill(tx, { owner, lease: leaseId!, subject: vm, quote: undefined, keyId: 'key_test', nowMs });
    return vm;
  });
  const args = [id, site.pace];
  await site.client.workflow.start(workflowType.vm, { taskQueue: controlQueue, workflowId: workflowId.vm(id), args });
  await site.until(`${id} runs`, async () => {
    const { state, hostKey } = await rowOf(id);
    return state === 'running' && hostKey !== null;
  });
  return id;
}

/** Ends the money of a VM in the middle of this step: it is warned of, and its grace is over. What it does goes on. */
function endMoneyIn(step: keyof HostActivities, id: VmId): void {
  const act = async (): Promise<void> => {
    const before = await rowOf(id);
    for (let round = 0; round < 3; round += 1) await collectNow(site, id);
    // Neither suspended nor removed over what is under way.
    expect(await rowOf(id)).toMatchObject({ operation: before.operation, removalRequestedAt: null });
    expect((await billOf(id)).warnedAt).not.toBeNull();
  };
  middle = { step, act, reached: false };
}

/** After it: suspended, then removed; no host holds anything of it, and the books balance. */
async function expectSuspendedThenRemoved(id: VmId): Promise<void> {
  expect(middle?.reached).toBe(true);
  await site.until('it is to lie suspended', async () => {
    await collectNow(site, id);
    return (await billOf(id)).suspendedAt !== null;
  });
  await notifyVm(id);
  await site.until('it lies suspended', async () => {
    const { state, operation } = await rowOf(id);
    return state === 'suspended' && operation === null;
  });
  expect(site.hosts.filter((host) => host.domains.has(id))).toEqual([]);
  // It stays so without money.
  const restored = site.ledger.$transaction((tx) => acceptOperation(tx, id, 'restore', Date.now()));
  await expect(restored).rejects.toMatchObject({ code: 'insufficient-funds' });
  await site.until('its removal is requested', async () => {
    await collectNow(site, id, 0);
    return (await rowOf(id)).removalRequestedAt !== null;
  });
  await notifyVm(id);
  await site.client.workflow.getHandle(workflowId.vm(id)).result();
  expect((await rowOf(id)).state).toBe('removed');
  expect(tracesOf(site, [id])).toEqual([]);
  const { leaseId, ownerId } = await rowOf(id);
  expect(await billOf(id)).toMatchObject({ endedAt: expect.any(Date), heldMicros: 0n, uncollectedMicros: 0n });
  const events = await site.ledger.event.findMany({ where: { subject: leaseId!, type: { startsWith: 'berth.bill.' } } });
  const types = events.map(({ type }) => type.replace('berth.bill.', '')).sort();
  expect(types).toEqual(['removed', 'settled', 'suspended', 'warned']);
  expect(await site.ledger.account.count({ where: { ownerId, kind: 'hold', closedAt: null } })).toBe(0);
  expect((await verifyBooks(site.ledger)).found).toEqual([]);
}

test('in the middle of a migration: it arrives, is suspended there, and then removed', async () => {
  const id = await poorVm();
  const { hostId, ownerId } = await rowOf(id);
  const to = site.hosts.find((host) => host.id !== hostId)!.id;
  endMoneyIn('migrateOut', id);
  const order = { vm: id, to, coldFallback: false, requestedBy: ownerId, reason: null, nowMs: Date.now() };
  const migration = await site.ledger.$transaction((tx) => acceptMigration(tx, order));
  const { generation } = await site.ledger.migration.findUniqueOrThrow({ where: { id: migration } });
  const workflow = workflowId.migration(id, generation);
  const options = { taskQueue: controlQueue, workflowId: workflow, args: [migration, site.pace] };
  await site.client.workflow.start(workflowType.migration, options);
  expect(await site.client.workflow.getHandle(workflow).result()).toBe('succeeded');
  expect((await rowOf(id)).hostId).toBe(to);
  await expectSuspendedThenRemoved(id);
});

test('in the middle of a suspension that its owner has ordered: it stays suspended, and is removed', async () => {
  const id = await poorVm();
  endMoneyIn('suspendVm', id);
  await site.ledger.$transaction((tx) => acceptOperation(tx, id, 'suspend', Date.now()));
  await notifyVm(id);
  await site.until('it is suspended', async () => (await rowOf(id)).state === 'suspended');
  await expectSuspendedThenRemoved(id);
});

test('in the middle of a drain: its host is emptied, and it is suspended where it went, and then removed', async () => {
  const id = await poorVm();
  const hostId = (await rowOf(id)).hostId!;
  endMoneyIn('migrateOut', id);
  const nowMs = Date.now();
  const drain = await site.ledger.$transaction((tx) =>
    acceptDrain(tx, {
      host: hostId,
      deadlineMs: nowMs + 3_600_000,
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
    }),
  );
  const { number } = await site.ledger.drain.findUniqueOrThrow({ where: { id: drain } });
  const workflow = workflowId.drain(hostId as never, number);
  await site.client.workflow.start(workflowType.drain, {
    taskQueue: controlQueue,
    workflowId: workflow,
    args: [drain, site.pace],
  });
  // A deadline that requires an immediate start, whatever was promised.
  await site.ledger.drain.update({ where: { id: drain }, data: { deadline: new Date(Date.now() + 500) } });
  await site.client.workflow.getHandle(workflow).signal(signalName.orderChanged);
  expect(await site.client.workflow.getHandle(workflow).result()).toBe('empty');
  expect((await rowOf(id)).hostId).not.toBe(hostId);
  await expectSuspendedThenRemoved(id);
});
