import { beforeAll, expect, it } from 'vitest';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { changeHostRemoved } from '../../ledger/levers/remove-host.ts';
import { recordDueUsage } from '../../ledger/market/record-usage.ts';
import { acceptMigration } from '../../ledger/migrations/accept-migration.ts';
import type { BerthError } from '../../model/errors.ts';
import { VmRemovedData } from '../../model/events.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { MigrationId } from '../../model/migration.ts';
import { BilledSite, hourly, virtualMiB } from './billed-site.ts';
import { addImage, failure, hostFacts, useLedger } from './ledger-fixture.ts';

/** Holes through which others have lost money, or capacity: each was tried here. */

const fixture = useLedger();
const site = new BilledSite(fixture);
const hour = 3_600_000;
const large = { vcpus: 100, memoryMiB: 400_000, diskMiB: 400_000 };

beforeAll(async () => {
  await addImage(fixture, 'debian-12', virtualMiB);
  for (const provider of ['north', 'south']) await fixture.activities.registerHost(hostFacts(provider, large, { provider }));
  await site.addBook(hourly());
});

const iso = (ms: number) => new Date(ms).toISOString();
const removed = (id: VmId) => fixture.activities.finishVm(id, { endedAt: iso(fixture.now), error: null });
const rowOf = (id: VmId) => fixture.ledger.vm.findUniqueOrThrow({ where: { id } });
const settled = async (id: VmId) => {
  const { id: lease } = await site.bill(id);
  return fixture.ledger.event.count({ where: { subject: lease, type: 'berth.bill.settled' } });
};
/** Where nothing but this host takes what is placed. */
async function onlyOn<T>(host: string, act: () => Promise<T>): Promise<T> {
  await fixture.sql('UPDATE "Host" SET schedulable = (id = $1)', [host]);
  try {
    return await act();
  } finally {
    await fixture.sql('UPDATE "Host" SET schedulable = true');
  }
}

async function beginMove(vm: VmId): Promise<MigrationId> {
  const { hostId } = await rowOf(vm);
  const to = hostId === 'north' ? 'south' : 'north';
  const order = { vm, to, coldFallback: false, requestedBy: 'test', reason: null, nowMs: fixture.now };
  const migration = await fixture.ledger.$transaction((tx) => acceptMigration(tx, order));
  await fixture.activities.reserveMigration(migration);
  return migration;
}
const moved = { downtimeMs: 1, bytes: 1, phases: [] };

it('two bills after a migration: there is one, and each moment is at one provider', async () => {
  const { owner } = await site.addBuyer(100_000);
  const vm = await site.runningVm(owner);
  for (let move = 0; move < 3; move += 1) {
    fixture.now += 1_234_567;
    const migration = await beginMove(vm);
    fixture.now += 4321;
    await Promise.all([site.collect(), site.collect()]);
    await fixture.activities.commitMigration(migration, moved);
    // As where the answer of the first was lost.
    await fixture.activities.commitMigration(migration, moved);
  }
  fixture.now += hour;
  const until = fixture.now;
  await removed(vm);
  await removed(vm);
  expect([await fixture.ledger.bill.count({ where: { subjectId: vm } }), await settled(vm)]).toEqual([1, 1]);
  const { data } = await fixture.ledger.event.findFirstOrThrow({ where: { subject: vm, type: 'berth.vm.removed' } });
  const { usage } = VmRemovedData.parse(data);
  expect(usage.map(({ provider }) => provider)).toHaveLength(4);
  for (const [index, one] of usage.entries())
    expect(one.endedAt).toBe(index === usage.length - 1 ? iso(until) : usage[index + 1]!.startedAt);
  const bill = await site.bill(vm);
  const due = await site.billOfEvent(vm);
  expect(bill.chargedMicros).toBe(due.buyerMicros);
  const paid = await fixture.sql<{ paid: string }>(
    `SELECT sum(e.amount)::text AS paid FROM "Transfer" t JOIN "Entry" e ON e."transferId" = t.id JOIN "Account" a ON a.id = e."accountId"
     WHERE t.subject = $1 AND a.kind IN ('provider', 'site')`,
    [bill.id],
  );
  expect(paid[0]!.paid).toBe(String(bill.chargedMicros));
});

it('a missing end: of a host that never answers again all leases end, once, and nothing stays held', async () => {
  await fixture.activities.registerHost(hostFacts('gone', large, { provider: 'north' }));
  const { owner, account } = await site.addBuyer(1000);
  const vms = await onlyOn('gone', () => Promise.all([1, 2].map(() => site.runningVm(owner))));
  expect(await site.balance(account)).toBe(1000 - 2 * 111);
  fixture.now += hour;
  await fixture.activities.markHostUnreachable('gone' as HostId);
  const removal = { declaredLost: true, by: owner, nowMs: fixture.now };
  const refusal = (await failure(changeHostRemoved(fixture.ledger, 'gone', { ...removal, confirm: null }))) as BerthError;
  const confirmed = { ...removal, confirm: String(refusal.extra.token) };
  await changeHostRemoved(fixture.ledger, 'gone', confirmed);
  for (const vm of vms) {
    expect(await settled(vm)).toBe(1);
    expect(await site.bill(vm)).toMatchObject({ endedAt: expect.any(Date), heldMicros: 0n });
  }
  const charged = (await Promise.all(vms.map(site.bill.bind(site)))).reduce((sum, one) => sum + one.chargedMicros, 0n);
  expect(await site.balance(account)).toBeCloseTo(1000 - Number(charged) / 1e6, 6);
  // Ten hours later nobody has paid more.
  fixture.now += 10 * hour;
  await site.collect();
  expect(await site.balance(account)).toBeCloseTo(1000 - Number(charged) / 1e6, 6);
});

it('usage behind removal: what comes after the end of a VM charges nothing, and tells nothing', async () => {
  const { owner, account } = await site.addBuyer(1000);
  const vm = await site.runningVm(owner);
  fixture.now += 2 * hour;
  await recordDueUsage(fixture.ledger, () => fixture.now);
  const migration = await beginMove(vm);
  await fixture.activities.commitMigration(migration, moved);
  fixture.now += hour;
  await removed(vm);
  const [bill, money] = [await site.bill(vm), await site.balance(account)];
  const published = async () => {
    const events = await fixture.ledger.event.findMany({ where: { subject: { in: [vm, bill.id] } }, orderBy: { seq: 'asc' } });
    return events.map(({ type }) => type).sort();
  };
  const before = await published();
  fixture.now += 10 * hour;
  // The commit of a migration again, a report of its end, the rounds of other workers, and the removal again.
  const late = [
    () => fixture.activities.commitMigration(migration, moved),
    () => fixture.activities.recordVmMissing(vm, { code: 'vm-lost', message: 'gone' }, 0),
    () => fixture.activities.beginSuspension(vm),
    () => recordDueUsage(fixture.ledger, () => fixture.now),
    () => site.collect(),
    () => removed(vm),
  ];
  for (const act of late) await act().catch(() => undefined);
  expect(await site.bill(vm)).toEqual(bill);
  expect(await site.balance(account)).toBe(money);
  expect(await published()).toEqual(before);
  expect((await site.billOfEvent(vm)).buyerMicros).toBe(bill.chargedMicros);
});

it('stranded capacity behind an empty escrow: others have the place of what lies suspended, and all of it after its removal', async () => {
  // For the processor of one VM.
  const facts = hostFacts('small', { vcpus: 1, memoryMiB: 4096, diskMiB: 16_384 }, { provider: 'south' });
  await fixture.activities.registerHost(facts);
  const { owner } = await site.addBuyer(111);
  const used = async () => {
    const host = await fixture.ledger.host.findUniqueOrThrow({ where: { id: 'small' } });
    return [host.usedVcpus, host.usedMemoryMiB, host.usedDiskMiB > 0];
  };
  const vm = await onlyOn('small', () => site.runningVm(owner));
  expect(await used()).toEqual([1, 1024, true]);
  for (const minutes of [15, 30]) {
    fixture.now += minutes * 60_000;
    await site.collect();
  }
  expect((await rowOf(vm)).operation).toBe('suspend');
  await fixture.activities.beginSuspension(vm);
  await fixture.activities.commitSuspension(vm);
  await fixture.activities.endOperation(vm, 'suspend', null, null);
  expect(await used()).toEqual([0, 0, true]);
  const other = await onlyOn('small', async () => site.runningVm((await site.addBuyer(10_000)).owner));
  expect((await rowOf(other)).hostId).toBe('small');
  fixture.now += 7200 * 1000 + 60_000;
  await site.collect();
  expect((await rowOf(vm)).removalRequestedAt).not.toBeNull();
  await removed(vm);
  await removed(other);
  expect(await used()).toEqual([0, 0, false]);
  expect(await fixture.ledger.account.count({ where: { ownerId: owner, kind: 'hold', closedAt: null } })).toBe(0);
});

it('a quote exceeded: not by dearer prices, a dearer provider, a late end, nor charge by charge', async () => {
  const { owner, account } = await site.addBuyer(1000);
  const { price } = await site.quote(owner, { durationS: 7200, preemptible: false });
  const total = price!.totalMicros;
  await site.addBook(hourly({}, [5000, 500, 50]));
  const vm = await site.runningVm(owner, { lease: { durationS: 7200 }, quote: price!.id });
  for (let n = 0; n < 12; n += 1) {
    fixture.now += 0.5 * hour;
    await site.collect();
    if (n % 3 === 0) await fixture.activities.commitMigration(await beginMove(vm), moved);
    expect((await site.bill(vm)).chargedMicros <= total).toBe(true);
  }
  await removed(vm);
  expect(await site.bill(vm)).toMatchObject({ chargedMicros: total, totalMicros: total, uncollectedMicros: 0n });
  expect(await site.balance(account)).toBe(1000 - Number(total) / 1e6);
  // Nor by anything else that writes to the ledger.
  const above = fixture.sql(`UPDATE "Bill" SET "chargedMicros" = "totalMicros" + 1 WHERE "subjectId" = $1`, [vm]);
  await expect(above).rejects.toThrow();
  expect((await verifyBooks(fixture.ledger)).found).toEqual([]);
});
