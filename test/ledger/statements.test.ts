import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { findPlaces, markEntries } from '../../ledger/books/entry-marks.ts';
import { changeBudget, changeBudgetRemoved, readBudgets } from '../../ledger/market/budgets.ts';
import { readMoneyAtRisk } from '../../ledger/market/money-totals.ts';
import { readFocusCharges } from '../../ledger/market/read-focus.ts';
import { readStatement } from '../../ledger/market/read-statement.ts';
import type { VmId } from '../../model/ids.ts';
import type { FocusCharge } from '../../model/money/focus.ts';
import { monthInterval, monthOf } from '../../model/money/statement.ts';
import { BilledSite, hourly, virtualMiB } from './billed-site.ts';
import { addImage, addOwner, failure, hostFacts, useLedger } from './ledger-fixture.ts';

const fixture = useLedger();
const site = new BilledSite(fixture);
const hour = 3_600_000;
const day = 24 * hour;

beforeAll(async () => {
  await addImage(fixture, 'debian-12', virtualMiB);
  await fixture.activities.registerHost(
    hostFacts('a', { vcpus: 1000, memoryMiB: 4_000_000, diskMiB: 4_000_000 }, { provider: 'north' }),
  );
  await site.addBook(hourly());
});

const iso = (ms: number) => new Date(ms).toISOString();
const removed = (id: VmId) => fixture.activities.finishVm(id, { endedAt: iso(fixture.now), error: null });
const statement = (owner: string, month = monthOf(fixture.now)) =>
  readStatement(fixture.ledger, { owner, month, ...monthInterval(month)!, nowMs: fixture.now });
const sum = (amounts: readonly bigint[]) => amounts.reduce((total, amount) => total + amount, 0n);
const units = (micros: bigint) => Number(micros) / 1e6;

/** Every entry of an owner's accounts and holds in a month, as the books have them. */
async function entriesIn(owner: string, month: string): Promise<bigint> {
  const { fromMs, untilMs } = monthInterval(month)!;
  const rows = await fixture.sql<{ total: string }>(
    `SELECT COALESCE(sum(e.amount), 0)::text AS total FROM "Entry" e JOIN "Account" a ON a.id = e."accountId" JOIN "Transfer" t ON t.id = e."transferId"
     WHERE a."ownerId" = $1 AND t."createdAt" >= $2 AND t."createdAt" < $3`,
    [owner, new Date(fromMs), new Date(untilMs)],
  );
  return BigInt(rows[0]!.total);
}

describe('a statement', () => {
  it('has lines that add up to the entries, in each of the months of a life, and what is only held is no line', async () => {
    fixture.now = Date.parse('2026-11-30T20:00:00Z');
    const { owner, account } = await site.addBuyer(10_000);
    const vm = await site.runningVm(owner, {});
    const lives = [vm, await site.runningVm(owner, {})];
    for (let n = 0; n < 40; n += 1) {
      fixture.now += hour / 4;
      await site.collect();
    }
    const [november, december] = [await statement(owner, '2026-11'), await statement(owner, '2026-12')];
    expect([november.final, december.final]).toEqual([true, false]);
    const [before, during] = [november.parts[0]!, december.parts[0]!];
    expect(units(before.openingMicros)).toBe(0);
    expect(before.closingMicros).toBe(during.openingMicros);
    for (const [month, part] of [
      ['2026-11', before],
      ['2026-12', during],
    ] as const) {
      const lines = sum(part.lines.map(({ amountMicros }) => amountMicros));
      expect(lines).toBe(part.closingMicros - part.openingMicros);
      expect(lines).toBe(await entriesIn(owner, month));
    }
    // Two leases, each a line, and the deposit in November.
    expect(before.lines.map(({ reason }) => reason).toSorted()).toEqual(['paid', 'usage of the lease', 'usage of the lease']);
    expect(during.lines.every(({ amountMicros }) => amountMicros < 0n)).toBe(true);
    expect(units(during.heldMicros)).toBe(222);
    expect(units(during.closingMicros)).toBe((await site.balance(account)) + 222);
    for (const id of lives) await removed(id);
    const after = (await statement(owner)).parts[0]!;
    expect([units(after.heldMicros), units(after.closingMicros)]).toEqual([0, await site.balance(account)]);
    expect(sum(after.lines.map(({ amountMicros }) => amountMicros))).toBe(after.closingMicros - after.openingMicros);
    // A month without any movement carries the balance on.
    fixture.now = Date.parse('2027-02-10T00:00:00Z');
    const later = (await statement(owner)).parts[0]!;
    expect([later.lines, later.openingMicros, later.closingMicros]).toEqual([[], after.closingMicros, after.closingMicros]);
  });

  it('shows what the site bore where an account had no more', async () => {
    const { owner } = await site.addBuyer(111);
    const vm = await site.runningVm(owner, {});
    // No control worker charges for a day.
    fixture.now += day;
    await removed(vm);
    const part = (await statement(owner)).parts[0]!;
    expect(units(part.closingMicros)).toBe(0);
    const borne = part.lines.find(({ reason }) => reason === 'usage beyond what was held')!;
    expect(borne.amountMicros).toBeGreaterThan(0n);
    expect(sum(part.lines.map(({ amountMicros }) => amountMicros))).toBe(part.closingMicros - part.openingMicros);
  });

  it('of an owner without money has no parts, and of nobody is not there', async () => {
    expect((await statement(await addOwner(fixture, 'poor'))).parts).toEqual([]);
    expect(await failure(statement('owner_none'))).toMatchObject({ code: 'not-found' });
  });

  it('adds up for random lives', async () => {
    const life = fc.array(
      fc.record({ hours: fc.integer({ min: 1, max: 100 }), act: fc.constantFrom('create', 'remove', 'deposit', 'wait') }),
      { minLength: 3, maxLength: 6 },
    );
    await fc.assert(
      fc.asyncProperty(life, async (steps) => {
        const { owner, account } = await site.addBuyer(100_000);
        const running: VmId[] = [];
        const first = monthOf(fixture.now);
        for (const { hours, act } of steps) {
          if (act === 'create') running.push(await site.runningVm(owner, {}));
          if (act === 'deposit') await site.deposit(account, hours);
          const next = running[0];
          if (act === 'remove' && next !== undefined) await removed(running.shift()!);
          fixture.now += hours * hour;
          await site.collect();
        }
        for (const id of running) await removed(id);
        let closing = 0n;
        for (
          let at = Date.parse(`${first}-01T00:00:00Z`);
          monthOf(at) <= monthOf(fixture.now);
          at = monthInterval(monthOf(at))!.untilMs
        ) {
          const month = monthOf(at);
          const part = (await statement(owner, month)).parts[0]!;
          expect(part.openingMicros).toBe(closing);
          expect(sum(part.lines.map(({ amountMicros }) => amountMicros))).toBe(part.closingMicros - part.openingMicros);
          expect(await entriesIn(owner, month)).toBe(part.closingMicros - part.openingMicros);
          closing = part.closingMicros;
        }
        expect(units(closing)).toBeCloseTo(await site.balance(account), 6);
      }),
      { numRuns: Number(process.env.BERTH_PROPERTY_RUNS ?? 2) },
    );
  });
});

describe('a budget', () => {
  const reached = async (owner: string) =>
    (
      await fixture.ledger.event.findMany({
        where: { ownerId: owner, type: 'berth.budget.reached' },
        orderBy: { seq: 'asc' },
      })
    ).map(({ data }) => {
      const { percent, month } = data as { percent: number; month: string };
      return `${month} ${percent}`;
    });

  it('is told at each threshold once a month, and refuses nothing', async () => {
    fixture.now = Date.parse('2027-05-10T00:00:00Z');
    const { owner } = await site.addBuyer(1_000_000);
    const budget = (units_: number, thresholds = [100, 50]) =>
      changeBudget(fixture.ledger, {
        owner,
        currency: 'EUR',
        monthlyMicros: BigInt(units_) * 1_000_000n,
        thresholds,
        nowMs: fixture.now,
      });
    const hours = async (count: number) => {
      for (let n = 0; n < count; n += 1) {
        fixture.now += hour;
        await site.collect();
      }
    };
    await budget(1110);
    const vm = await site.runningVm(owner, {});
    await hours(4);
    expect(await reached(owner)).toEqual([]);
    await hours(2);
    expect(await reached(owner)).toEqual(['2027-05 50']);
    await hours(8);
    expect(await reached(owner)).toEqual(['2027-05 50', '2027-05 100']);
    const [row] = await readBudgets(fixture.ledger, owner, fixture.now);
    const lines = (await statement(owner)).parts[0]!.lines.filter(({ reason }) => reason !== 'paid');
    expect(row!.spentMicros).toBe(-sum(lines.map(({ amountMicros }) => amountMicros)));
    // A new month begins with nothing, and one that is set anew is told anew, with what was charged before.
    fixture.now = Date.parse('2027-06-01T00:00:01Z');
    expect((await readBudgets(fixture.ledger, owner, fixture.now))[0]).toMatchObject({ month: '2027-06', spentMicros: 0n });
    await site.collect();
    expect((await reached(owner)).slice(2)).toEqual(['2027-06 50', '2027-06 100']);
    await removed(vm);
    const { spentMicros } = await budget(1, [10, 20]);
    expect((await reached(owner)).slice(4)).toEqual(['2027-06 10', '2027-06 20']);
    const june = (await statement(owner)).parts[0]!.lines;
    expect(spentMicros).toBe(-sum(june.map(({ amountMicros }) => amountMicros)));
    await changeBudgetRemoved(fixture.ledger, owner, 'EUR');
    expect(await failure(changeBudgetRemoved(fixture.ledger, owner, 'EUR'))).toMatchObject({ code: 'not-found' });
  });
});

it('money at risk is credit, what holds lack, and what was not collected', async () => {
  const atRisk = async () => {
    const rows = await readMoneyAtRisk(fixture.ledger);
    const { credit, unheld, uncollected } = rows.find(({ currency }) => currency === 'EUR') ?? {
      credit: 0,
      unheld: 0,
      uncollected: 0,
    };
    return { credit: credit / 1e6, unheld: unheld / 1e6, uncollected: uncollected / 1e6 };
  };
  const before = await atRisk();
  const { owner } = await site.addBuyer(0, 200);
  await site.runningVm(owner, {});
  expect((await atRisk()).credit - before.credit).toBeCloseTo(111, 3);
  for (let n = 0; n < 5; n += 1) {
    fixture.now += hour / 4;
    await site.collect();
  }
  const after = await atRisk();
  expect(after.credit - before.credit).toBeCloseTo(200, 3);
  expect(after.unheld - before.unheld).toBeGreaterThan(40);
  expect(after.uncollected).toBe(before.uncollected);
});

describe('with marks of places', () => {
  /** An hour of a site: charges, the books' round, and what is marked in it. */
  async function pass(hours: number): Promise<void> {
    for (let n = 0; n < hours; n += 1) {
      fixture.now += hour;
      await site.collect();
      await markEntries(fixture.ledger, fixture.now);
    }
  }

  it('a statement is the same, and needs no entry of other months but the last before it of each account', async () => {
    fixture.now = Date.parse('2028-01-30T22:30:00Z');
    const { owner, account } = await site.addBuyer(100_000);
    const vms = [await site.runningVm(owner, {}), await site.runningVm(owner, {})];
    await pass(50);
    await removed(vms[0]!);
    await site.deposit(account, 5);
    await pass(29 * 24);
    await removed(vms[1]!);
    await pass(30);
    const without = async () => {
      await fixture.sql('CREATE TABLE "Marks" AS SELECT * FROM "EntryMark"');
      await fixture.sql('DELETE FROM "EntryMark"');
      const read = await statement(owner, '2028-02');
      await fixture.sql('INSERT INTO "EntryMark" SELECT * FROM "Marks"');
      return read;
    };
    const whole = await without();
    expect(await statement(owner, '2028-02')).toEqual(whole);
    const { after, upTo } = await findPlaces(fixture.ledger, monthInterval('2028-02')!);
    const left = await fixture.sql<{ before: number; behind: number }>(
      `SELECT count(*) FILTER (WHERE seq <= $1)::int AS before, count(*) FILTER (WHERE seq > $2)::int AS behind FROM "Entry"`,
      [after, upTo],
    );
    expect([left[0]!.before > 10, left[0]!.behind > 10]).toEqual([true, true]);
    const client = await fixture.pool.connect();
    await client.query('BEGIN; SET LOCAL session_replication_role = replica');
    await client.query(
      `DELETE FROM "Entry" e WHERE seq > $2 OR (seq <= $1 AND EXISTS (
         SELECT FROM "Entry" o WHERE o."accountId" = e."accountId" AND o.seq > e.seq AND o.seq <= $1))`,
      [after, upTo],
    );
    await client.query('COMMIT');
    client.release();
    expect(await statement(owner, '2028-02')).toEqual(whole);
  });

  it('are of one place an hour, and none of a time that is not yet', async () => {
    fixture.now += 10 * hour;
    await fixture.sql('DELETE FROM "EntryMark"');
    for (let n = 0; n < 12; n += 1) {
      await markEntries(fixture.ledger, fixture.now);
      fixture.now += hour / 6;
    }
    expect(await fixture.ledger.entryMark.count()).toBe(2);
    // The clock is set back: what was marked ahead of it holds for nothing.
    fixture.now -= 3 * hour;
    await markEntries(fixture.ledger, fixture.now);
    expect((await fixture.ledger.entryMark.findMany()).map(({ at }) => at.getTime())).toEqual([fixture.now]);
  });
});

describe('as FOCUS has it', () => {
  it('charges of a month add up to the lines of the statement, with taxes and what the site bears', async () => {
    fixture.now = Date.parse('2029-03-30T22:00:00Z');
    await site.addBook(hourly({ taxMillionths: 190_000, feeMillionths: 50_000 }));
    const { owner } = await site.addBuyer(3000);
    const vms = [await site.runningVm(owner, {}), await site.runningVm(owner, {})];
    for (let n = 0; n < 40; n += 1) {
      fixture.now += hour;
      // The last charge is of more than the hold and the account have.
      if (n < 20) await site.collect();
    }
    for (const vm of vms) await removed(vm);
    for (const month of ['2029-03', '2029-04']) {
      const charges: FocusCharge[] = [];
      for await (const day of readFocusCharges(fixture.ledger, { owner, ...monthInterval(month)! })) charges.push(...day);
      const lines = (await statement(owner, month)).parts[0]!.lines.filter(({ reason }) => reason !== 'paid');
      expect(charges.length).toBeGreaterThan(0);
      expect(sum(charges.map(({ amountMicros }) => amountMicros))).toBe(-sum(lines.map(({ amountMicros }) => amountMicros)));
      expect(charges.every(({ dayMs }) => monthOf(dayMs) === month)).toBe(true);
    }
  });
});
