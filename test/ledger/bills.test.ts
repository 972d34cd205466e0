import { beforeAll, describe, expect, it } from 'vitest';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { changeTaskForceEnded } from '../../ledger/levers/force-end.ts';
import { changePriceBookEnded } from '../../ledger/market/price-books.ts';
import { inTransaction } from '../../ledger/transaction.ts';
import { acceptOperation } from '../../ledger/vms/accept-vm.ts';
import { requestRestart } from '../../ledger/vms/domains/host-restarted.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { BilledSite, hourly, virtualMiB } from './billed-site.ts';
import { addImage, addOwner, failure, hostFacts, outcomeOf, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
const site = new BilledSite(fixture);
const hour = 3_600_000;
let book: string;

beforeAll(async () => {
  await addImage(fixture, 'debian-12', virtualMiB);
  const large = { vcpus: 1000, memoryMiB: 4_000_000, diskMiB: 4_000_000 };
  await fixture.activities.registerHost(hostFacts('a', large, { provider: 'north' }));
});

const iso = (ms: number) => new Date(ms).toISOString();
const hours = (count: number) => {
  fixture.now += count * hour;
};
const codeOf = async (promise: Promise<unknown>) => (await failure(promise)).code;
const removed = (id: VmId) => fixture.activities.finishVm(id, { endedAt: iso(fixture.now), error: null });
const events = async (id: string) =>
  (
    await fixture.ledger.event.findMany({ where: { subject: id, type: { startsWith: 'berth.bill' } }, orderBy: { time: 'asc' } })
  ).map(({ type }) => type.replace('berth.bill.', ''));
const eventsOf = async (id: string) => events((await site.bill(id)).id);
const balanceOf = async (kind: 'provider' | 'site' | 'tax', name = '', holder = '') => {
  const row = await fixture.ledger.account.findFirst({ where: { kind, name, holder } });
  return row === null ? 0 : site.balance(row.id);
};

describe('without a price book', () => {
  it('nothing is quoted, held or billed, and nobody needs an account', async () => {
    const owner = await addOwner(fixture, 'nobody');
    const task = await site.runningTask(owner);
    const vm = await site.runningVm(owner);
    expect((await site.quote(owner, { durationS: 3600 })).price).toBeNull();
    hours(30);
    expect(await site.collect()).toBe(0);
    await fixture.activities.advanceTask(task, 'stagingOut', []);
    await fixture.activities.finishTask(task, outcomeOf(), []);
    await removed(vm);
    for (const table of ['Bill', 'Quote', 'Account', 'Transfer'])
      expect(await fixture.sql(`SELECT 1 FROM "${table}"`)).toEqual([]);
  });
});

describe('a price book', () => {
  beforeAll(async () => {
    book = await site.addBook(hourly({ feeMillionths: 100_000, taxMillionths: 250_000 }));
  });

  it('is kept as it was promised', async () => {
    for (const change of [`terms = '{}'`, `currency = 'USD'`, `"validFrom" = now()`])
      expect(await failure(fixture.sql(`UPDATE "PriceBook" SET ${change} WHERE id = '${book}'`))).toMatchObject({
        code: 'BE005',
      });
  });

  it('makes an account necessary, with what is held; a refusal leaves nothing', async () => {
    const nobody = await addOwner(fixture, 'no-account');
    expect(await codeOf(site.task(nobody))).toBe('insufficient-funds');
    const { owner, account } = await site.addBuyer(110);
    expect(await codeOf(site.task(owner, { lease: { durationS: 3600 } }))).toBe('insufficient-funds');
    expect(await fixture.ledger.task.count({ where: { ownerId: { in: [nobody, owner] } } })).toBe(0);
    await site.deposit(account, 1);
    const task = await site.task(owner, { lease: { durationS: 7200 } });
    expect(await site.bill(task)).toMatchObject({ totalMicros: 222_000_000n, heldMicros: 111_000_000n });
    expect(await site.balance(account)).toBe(0);
  });

  it('has all of a fixed start held, within a credit limit', async () => {
    const { owner, account } = await site.addBuyer(0, 300);
    const startAt = iso(fixture.now + 24 * hour);
    const task = await site.task(owner, { lease: { kind: 'reservation', startAt, durationS: 7200 } });
    expect(await site.bill(task)).toMatchObject({ heldMicros: 222_000_000n });
    expect(await site.balance(account)).toBe(-222);
    expect(await codeOf(site.task(owner, { lease: { kind: 'reservation', startAt, durationS: 7200 } }))).toBe(
      'insufficient-funds',
    );
    await fixture.activities.finishTask(task, outcomeOf({ state: 'cancelled', exitCode: null }), []);
    expect(await site.balance(account)).toBe(0);
  });
});

describe('a quote', () => {
  it('holds its prices for its time, and its order is never charged above its total', async () => {
    const { owner, account } = await site.addBuyer(1000);
    const { price } = await site.quote(owner, { durationS: 3600, preemptible: false });
    expect(price).toMatchObject({ totalMicros: 111_000_000n, holdMicros: 111_000_000n });
    const dear = await site.addBook(hourly({}, [1000, 100, 10]));
    const order = { lease: { durationS: 3600 }, quote: price!.id };
    const vm = await site.runningVm(owner, order);
    // Of a VM that is removed late.
    hours(5);
    await removed(vm);
    expect(await site.bill(vm)).toMatchObject({ chargedMicros: 111_000_000n, quoteId: price!.id, heldMicros: 0n });
    expect(await site.balance(account)).toBe(889);
    expect((await failure(site.vm(owner, order))).message).toContain('was used');
    expect(await codeOf(site.vm(owner, { lease: { durationS: 3600 } }))).toBe('insufficient-funds');
    await changePriceBookEnded(fixture.ledger, dear, fixture.now);
    await site.vm(owner, { lease: { durationS: 3600 } });
  });

  it('is of one owner, one order and its time', async () => {
    const { owner } = await site.addBuyer(1000);
    const { owner: other } = await site.addBuyer(1000);
    const { price } = await site.quote(owner, { durationS: 3600 });
    const ask = (of: string, more: Record<string, unknown>) =>
      failure(site.task(of, { quote: price!.id, lease: { durationS: 3600 }, ...more }));
    const refusals: [string, Record<string, unknown>, string][] = [
      [other, {}, 'does not exist'],
      [owner, { nodes: 2 }, 'another nodes'],
      [owner, { lease: { durationS: 7200 } }, 'another durationS'],
      [owner, { resources: { vcpus: 2, memoryMiB: 512, diskMiB: 960 } }, 'another vcpus, memoryMiB'],
      [owner, { lease: { durationS: 3600, preemptible: false } }, 'another preemptible'],
    ];
    for (const [of, more, why] of refusals) {
      const error = await ask(of, more);
      expect([error.code, error.message]).toEqual(['quote-refused', expect.stringContaining(why)]);
    }
    fixture.now += 700_000;
    expect((await ask(owner, {})).message).toContain('has expired');
  });

  it('is used once, of any number of orders at the same time', async () => {
    const { owner } = await site.addBuyer(10_000);
    const { price } = await site.quote(owner, { durationS: 3600 });
    const all = await Promise.allSettled(
      Array.from({ length: 8 }, () => site.task(owner, { quote: price!.id, lease: { durationS: 3600 } })),
    );
    expect(all.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  });
});

describe('the end of a lease', () => {
  it('charges the usage of its event, pays everybody and gives the rest back, once', async () => {
    const { owner, account } = await site.addBuyer(1000);
    const before = await Promise.all([balanceOf('provider', '', 'north'), balanceOf('site', 'fees'), balanceOf('tax')]);
    const task = await site.runningTask(owner, { lease: { durationS: 7200 } });
    const [vm] = await fixture.ledger.vm.findMany({ where: { taskId: task } });
    const startedAt = iso(fixture.now);
    hours(1);
    const end = outcomeOf({ vms: [{ id: vm!.id as VmId, startedAt, endedAt: iso(fixture.now) }] });
    await fixture.activities.advanceTask(task, 'stagingOut', []);
    await fixture.activities.finishTask(task, end, []);
    await fixture.activities.finishTask(task, end, []);
    expect(await site.bill(task)).toMatchObject({ chargedMicros: 111_000_000n, heldMicros: 0n, uncollectedMicros: 0n });
    expect(await site.billOfEvent(task)).toMatchObject({ buyerMicros: 111_000_000n });
    expect(await site.balance(account)).toBe(889);
    const after = await Promise.all([balanceOf('provider', '', 'north'), balanceOf('site', 'fees'), balanceOf('tax')]);
    // 111 with 25 % of tax in it is 88.8 and 22.2, of which the site has a tenth.
    expect(after.map((amount, n) => Math.round((amount - before[n]!) * 1e6) / 1e6)).toEqual([79.92, 8.88, 22.2]);
    expect(await eventsOf(task)).toEqual(['settled']);
  });

  it('charges nothing for a promise that the site has broken', async () => {
    const { owner, account } = await site.addBuyer(1000);
    const lease = { kind: 'reservation', startAt: iso(fixture.now + 24 * hour), durationS: 7200 };
    const task = await site.task(owner, { lease });
    const error = { code: 'promise-broken' as const, message: 'no hosts' };
    await fixture.activities.finishTask(task, outcomeOf({ state: 'failed', exitCode: null, error }), []);
    expect(await site.balance(account)).toBe(1000);
    // Best effort was promised nothing: what it has used is paid.
    const other = await site.runningVm(owner, { lease: { durationS: 7200 } });
    hours(1);
    await fixture.activities.finishVm(other, { endedAt: iso(fixture.now), error: { code: 'vm-lost', message: 'gone' } });
    expect(await site.balance(account)).toBe(889);
  });

  it('by force settles as well', async () => {
    const { owner, account } = await site.addBuyer(1000);
    const task = await site.runningTask(owner, { lease: { durationS: 7200 } });
    hours(1);
    await changeTaskForceEnded(fixture.ledger, task, { by: owner, reason: null, nowMs: fixture.now });
    expect(await site.bill(task)).toMatchObject({ chargedMicros: 111_000_000n, endedAt: new Date(fixture.now) });
    expect(await site.balance(account)).toBe(889);
  });

  it('cannot be charged again, nor above the total', async () => {
    const { owner } = await site.addBuyer(1000);
    const vm = await site.runningVm(owner, { lease: { durationS: 3600 } });
    const set = (text: string) =>
      failure(fixture.sql(`UPDATE "Bill" SET ${text} WHERE "leaseId" = (SELECT "leaseId" FROM "Vm" WHERE id = '${vm}')`));
    expect(await set(`"chargedMicros" = 111000001`)).toMatchObject({ constraint: 'Bill_total' });
    expect(await set(`"totalMicros" = NULL`)).toMatchObject({ code: 'BE005' });
    await removed(vm);
    expect(await set(`"chargedMicros" = 0`)).toMatchObject({ code: 'BE005' });
  });
});

describe('best effort without an end', () => {
  it('is charged while it runs, and an hour of it is held again', async () => {
    const { owner, account } = await site.addBuyer(1000);
    const vm = await site.runningVm(owner);
    hours(1);
    expect(await site.collect()).toBeGreaterThan(0);
    expect(await site.bill(vm)).toMatchObject({ chargedMicros: 111_000_000n, heldMicros: 111_000_000n, totalMicros: null });
    expect(await site.balance(account)).toBe(778);
    expect(await site.collect()).toBe(0);
    hours(1);
    await Promise.all(Array.from({ length: 4 }, () => site.collect()));
    await removed(vm);
    expect(await site.bill(vm)).toMatchObject({ chargedMicros: 222_000_000n, heldMicros: 0n });
    expect(await site.balance(account)).toBe(778);
    expect((await verifyBooks(fixture.ledger)).found).toEqual([]);
  });

  it('pays its disk alone while it is suspended', async () => {
    const { owner } = await site.addBuyer(1000);
    const vm = await site.runningVm(owner);
    await fixture.activities.beginSuspension(vm);
    await fixture.activities.commitSuspension(vm);
    hours(10);
    await removed(vm);
    expect(await site.bill(vm)).toMatchObject({ chargedMicros: 10_000_000n });
  });
});

describe('when money ends', () => {
  /** A VM that runs, whose owner has no more than the hold. */
  async function poor() {
    const { owner, account } = await site.addBuyer(111);
    return { vm: await site.runningVm(owner), account, owner };
  }
  const round = async (minutes: number) => {
    fixture.now += minutes * 60_000;
    await site.collect();
  };
  const cancelled = (task: TaskId) => fixture.activities.finishTask(task, outcomeOf({ state: 'cancelled', exitCode: null }), []);
  const vmRow = (id: VmId) => fixture.ledger.vm.findUniqueOrThrow({ where: { id } });

  it('its owner is warned; after the grace the VM is suspended, and at last removed, and nothing stays behind', async () => {
    const { vm, account, owner } = await poor();
    await round(15);
    expect(await eventsOf(vm)).toEqual(['warned']);
    await round(29);
    expect((await vmRow(vm)).operation).toBeNull();
    await round(1);
    expect(await vmRow(vm)).toMatchObject({ operation: 'suspend', removalRequestedAt: null });
    expect(await eventsOf(vm)).toEqual(['warned', 'suspended']);
    await fixture.activities.beginSuspension(vm);
    await fixture.activities.commitSuspension(vm);
    await fixture.activities.endOperation(vm, 'suspend', null, null);
    const restore = () => fixture.ledger.$transaction((tx) => acceptOperation(tx, vm, 'restore', fixture.now));
    expect(await codeOf(restore())).toBe('insufficient-funds');
    await round(100);
    expect((await vmRow(vm)).removalRequestedAt).toBeNull();
    await round(25);
    expect((await vmRow(vm)).removalRequestedAt).not.toBeNull();
    fixture.now += 1000;
    await removed(vm);
    expect(await eventsOf(vm)).toEqual(['warned', 'suspended', 'removed', 'settled']);
    const bill = await site.bill(vm);
    // Its three quarters of an hour, and its disk after that: the hold of an hour has paid for all of it.
    expect(bill).toMatchObject({ heldMicros: 0n, uncollectedMicros: 0n });
    expect(await site.balance(account)).toBeCloseTo(111 - Number(bill.chargedMicros) / 1e6, 6);
    expect(await fixture.ledger.account.count({ where: { ownerId: owner, kind: 'hold', closedAt: null } })).toBe(0);
    expect((await verifyBooks(fixture.ledger)).found).toEqual([]);
  });

  it('a payment clears the warning, and the VM can be restored', async () => {
    const { vm, account } = await poor();
    await round(15);
    await round(30);
    await fixture.activities.beginSuspension(vm);
    await fixture.activities.commitSuspension(vm);
    await fixture.activities.endOperation(vm, 'suspend', null, null);
    await site.deposit(account, 500);
    await round(1);
    expect(await eventsOf(vm)).toEqual(['warned', 'suspended', 'cleared']);
    expect(await site.bill(vm)).toMatchObject({ warnedAt: null, suspendedAt: null });
    expect(await fixture.ledger.$transaction((tx) => acceptOperation(tx, vm, 'restore', fixture.now))).toBe(true);
  });

  it('a VM that migrates is suspended when it has arrived', async () => {
    const { vm } = await poor();
    await round(15);
    await fixture.sql(`UPDATE "Vm" SET state = 'migrating' WHERE id = '${vm}'`);
    await round(30);
    expect(await eventsOf(vm)).toEqual(['warned']);
    await fixture.sql(`UPDATE "Vm" SET state = 'running' WHERE id = '${vm}'`);
    await round(1);
    expect(await eventsOf(vm)).toEqual(['warned', 'suspended']);
  });

  it("a task's work is suspended after the grace, when it runs, and the task cancelled at last", async () => {
    const { owner } = await site.addBuyer(111);
    const task = await site.runningTask(owner, { lease: { durationS: 36_000 } });
    const row = () => fixture.ledger.task.findUniqueOrThrow({ where: { id: task }, include: { lease: true } });
    await round(15);
    await round(30);
    expect(await row()).toMatchObject({ cancelRequestedAt: null, lease: { suspension: 'suspending', suspensions: 1 } });
    expect((await row()).lease.leftS).toBeCloseTo(36_000 - 45 * 60, -1);
    expect(await eventsOf(task)).toEqual(['warned', 'suspended']);
    const pass = await fixture.activities.stepPlan();
    expect(pass.leaseOrderChanged).toEqual([]);
    fixture.now += 6000;
    expect((await fixture.activities.stepPlan()).leaseOrderChanged).toEqual([task]);
    const [vm] = await fixture.ledger.vm.findMany({ where: { taskId: task } });
    await fixture.activities.beginSuspension(vm!.id as VmId);
    await fixture.activities.commitSuspension(vm!.id as VmId);
    await fixture.activities.recordLeaseSuspended(task);
    // It is no work of the plan: nothing resumes it, and the site places as one without a plan.
    for (let n = 0; n < 3; n += 1) {
      fixture.now += 60_000;
      await fixture.activities.stepPlan();
      expect((await row()).lease.suspension).toBe('suspended');
    }
    await round(120);
    expect((await row()).cancelRequestedAt).not.toBeNull();
    expect(await eventsOf(task)).toEqual(['warned', 'suspended', 'removed']);
    await cancelled(task);
  });

  it('work that lies suspended because its money has ended is resumed when there is money', async () => {
    const { owner, account } = await site.addBuyer(111);
    const task = await site.runningTask(owner, { lease: { durationS: 36_000 } });
    await round(15);
    await round(30);
    const [vm] = await fixture.ledger.vm.findMany({ where: { taskId: task } });
    await fixture.activities.beginSuspension(vm!.id as VmId);
    await fixture.activities.commitSuspension(vm!.id as VmId);
    await fixture.activities.recordLeaseSuspended(task);
    await site.deposit(account, 500);
    await round(1);
    expect(await eventsOf(task)).toEqual(['warned', 'suspended', 'cleared']);
    expect((await fixture.activities.stepPlan()).leaseOrderChanged).toEqual([task]);
    await cancelled(task);
  });

  it('a VM that is always to run is not started while its money has ended', async () => {
    const { owner } = await site.addBuyer(111);
    const vm = await site.runningVm(owner, { restart: 'always' });
    const restarted = () =>
      inTransaction(fixture.ledger, (tx) =>
        requestRestart(tx, { id: vm, cause: 'hostRestarted', begun: null, now: new Date(fixture.now).toISOString() }),
      );
    await round(15);
    await round(30);
    expect((await vmRow(vm)).operation).toBe('suspend');
    // Its host was restarted before it was suspended.
    await fixture.activities.recordVmMissing(vm, { code: 'host-restarted', message: 'restarted' });
    await fixture.activities.endOperation(vm, 'suspend', null, null);
    expect(await restarted()).toBe(false);
    expect((await vmRow(vm)).operation).toBeNull();
    await fixture.sql(`UPDATE "Bill" SET "suspendedAt" = NULL WHERE "subjectId" = $1`, [vm]);
    expect(await restarted()).toBe(true);
  });

  it('providers are paid also for what the account has not, which the site bears', async () => {
    const { vm, account } = await poor();
    const north = await balanceOf('provider', '', 'north');
    const borne = await balanceOf('site', 'uncollected');
    // No control worker ran for all that time.
    hours(3);
    await removed(vm);
    expect(await site.bill(vm)).toMatchObject({ chargedMicros: 333_000_000n, uncollectedMicros: 222_000_000n, heldMicros: 0n });
    expect(await site.balance(account)).toBe(0);
    expect((await balanceOf('site', 'uncollected')) - borne).toBeCloseTo(-222, 6);
    expect((await balanceOf('provider', '', 'north')) - north).toBeCloseTo(3 * 79.92, 6);
    expect((await verifyBooks(fixture.ledger)).found).toEqual([]);
  });
});
