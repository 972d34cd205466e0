import fc from 'fast-check';
import { beforeAll, beforeEach, expect, it } from 'vitest';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { readMoneyAtRisk } from '../../ledger/market/money-totals.ts';
import { readStatement } from '../../ledger/market/read-statement.ts';
import { recordDueOwnerUsage } from '../../ledger/usage/record-owner-usage.ts';
import { OwnerUsageData, ownerUsageTypes, UsageUnpaidData } from '../../model/books/usage-event.ts';
import { newId } from '../../model/ids.ts';
import { divideHalfEven } from '../../model/money/exact.ts';
import { servicePartsPerMicro } from '../../model/money/services.ts';
import { monthInterval, monthOf } from '../../model/money/statement.ts';
import { BilledSite, hourly, virtualMiB } from './billed-site.ts';
import { addImage, addOwner, hex64, hostFacts, useLedger, useMeterClock } from './ledger-fixture.ts';

/** What owners use besides VMs: files, logs and published ports. */

const fixture = useLedger();
const site = new BilledSite(fixture);
const hour = 3_600_000;
const giB = 2 ** 30;
let setMeterClock: (ms: number) => Promise<unknown>;

beforeAll(async () => {
  setMeterClock = await useMeterClock(fixture);
  await addImage(fixture, 'debian-12', virtualMiB);
  await fixture.activities.registerHost(hostFacts('a', { vcpus: 1000, memoryMiB: 4_000_000, diskMiB: 4_000_000 }));
});
beforeEach(() => fixture.sql('DELETE FROM "PriceBook"'));

async function pass(ms: number): Promise<void> {
  fixture.now += ms;
  await setMeterClock(fixture.now);
}
const addFile = async (ownerId: string, sizeBytes: number, state: 'ready' | 'uploading' = 'ready'): Promise<string> => {
  const data = { id: newId('file'), ownerId, name: 'f', state, sizeBytes: BigInt(sizeBytes), sha256: hex64 };
  return (await fixture.ledger.file.create({ data })).id;
};
const resize = (id: string, sizeBytes: number) =>
  fixture.ledger.file.update({ where: { id }, data: { sizeBytes: BigInt(sizeBytes) } });
const record = () => recordDueOwnerUsage(fixture.ledger);
async function recorded(owner: string) {
  const rows = await fixture.ledger.event.findMany({
    where: { ownerId: owner, type: ownerUsageTypes.recorded },
    orderBy: { time: 'asc' },
  });
  return rows.map(({ data }) => OwnerUsageData.parse(data));
}

let ports = 0;
async function publish(owner: string): Promise<{ id: string; become: (state: string) => Promise<unknown> }> {
  const vm = await site.vm(owner);
  const id = newId('port');
  ports += 1;
  await fixture.sql(
    `INSERT INTO "PublishedPort" (id, "ownerId", "vmId", protocol, port, "publicAddress", "publicPort", address)
     VALUES ($1, $2, $3, 'tcp', 80, '192.0.2.1', $4, '10.0.0.1')`,
    [id, owner, vm, ports],
  );
  return { id, become: (state) => fixture.sql(`UPDATE "PublishedPort" SET state = $2::"PortState" WHERE id = $1`, [id, state]) };
}

it('is the bytes of ready files and of logs, each from its change on, to the millisecond, in intervals without a gap', async () => {
  const owner = await addOwner(fixture, 'bytes');
  await pass(0);
  const begin = fixture.now;
  const file = await addFile(owner, 1000);
  const claim = await addFile(owner, 999_999, 'uploading');
  await pass(hour - 1);
  expect(await record()).toBe(0);
  await pass(1);
  expect(await record()).toBe(1);
  await pass(500);
  await resize(file, 3000);
  await fixture.ledger.file.update({ where: { id: claim }, data: { state: 'ready', sizeBytes: 7n } });
  await fixture.ledger.storedLog.create({ data: { holderId: 'task_1', node: 0, ownerId: owner, sizeBytes: 50n } });
  await pass(250);
  await fixture.ledger.file.delete({ where: { id: file } });
  await fixture.ledger.storedLog.deleteMany({ where: { ownerId: owner } });
  await pass(hour);
  await Promise.all(Array.from({ length: 5 }, record));
  await fixture.ledger.file.delete({ where: { id: claim } });
  await pass(2 * hour);
  expect(await record()).toBe(0);
  expect(await recorded(owner)).toEqual([
    {
      owner,
      from: new Date(begin).toISOString(),
      until: new Date(begin + hour).toISOString(),
      repositoryByteSeconds: 3600 * 1000,
      portSeconds: 0,
    },
    {
      owner,
      from: new Date(begin + hour).toISOString(),
      until: new Date(begin + 2 * hour + 750).toISOString(),
      repositoryByteSeconds: 0.5 * 1000 + 0.25 * (3000 + 7 + 50) + 3600 * 7,
      portSeconds: 0,
    },
  ]);
});

it('is the time in which an edge led to ports, wherever it ended, once', async () => {
  const owner = await addOwner(fixture, 'ports');
  const [one, other] = [await publish(owner), await publish(owner)];
  await pass(hour);
  await one.become('active');
  await pass(1001);
  await other.become('active');
  await pass(500);
  // Another edge has to learn it, or its VM has moved.
  await one.become('pending');
  await pass(40);
  await one.become('active');
  await pass(hour);
  await Promise.all(Array.from({ length: 5 }, record));
  await pass(9);
  await one.become('removing');
  await pass(5);
  await fixture.sql('DELETE FROM "PublishedPort" WHERE id = ANY($1)', [[one.id, other.id]]);
  await pass(hour);
  await record();
  expect((await recorded(owner)).map(({ portSeconds }) => portSeconds)).toEqual([
    (1501 + hour + (540 + hour)) / 1000,
    (9 + 14) / 1000,
  ]);
  expect(await fixture.sql('SELECT 1 FROM "PortStay"')).toEqual([]);
});

it('counts each change once whatever happens at once', async () => {
  const owner = await addOwner(fixture, 'at once');
  const files = await Promise.all(Array.from({ length: 10 }, () => addFile(owner, 100)));
  for (let n = 0; n < 10; n += 1) {
    const waits = files.map((id) => resize(id, 100 + n));
    await Promise.all([...waits, pass(n % 2 === 0 ? hour : 1), record()]);
  }
  await pass(hour);
  await record();
  const rows = await fixture.sql<{ bytes: string; byteMs: string }>(
    'SELECT bytes, "byteMs" FROM "OwnerMeter" WHERE "ownerId" = $1',
    [owner],
  );
  expect(rows).toEqual([{ bytes: '1090', byteMs: '0' }]);
  const all = await recorded(owner);
  const span = (Date.parse(all.at(-1)!.until) - Date.parse(all[0]!.from)) / 1000;
  const sum = all.reduce((total, one) => total + one.repositoryByteSeconds, 0);
  expect(sum).toBeGreaterThanOrEqual(span * 1000);
  expect(sum).toBeLessThanOrEqual(span * 1090);
  expect(all.slice(1).map(({ from }) => from)).toEqual(all.slice(0, -1).map(({ until }) => until));
});

it('costs usage × price to the micro-unit over all charges, with tax, on a line of the statement', async () => {
  const step = fc.record({
    bytes: fc.integer({ min: 0, max: 5 * giB }),
    ms: fc.integer({ min: 1, max: 3 * hour }),
    active: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 8 }), fc.integer({ min: 0, max: 300_000 }), async (steps, tax) => {
      await fixture.sql('DELETE FROM "PriceBook"');
      // Without prices a port's VM is not billed.
      const { owner } = await site.addBuyer(1_000_000);
      const port = await publish(owner);
      const services = { repositoryGiBHourMicros: '333', portHourMicros: '777' };
      await site.addBook(hourly({ services, taxMillionths: tax }));
      await pass(0);
      const file = await addFile(owner, 0);
      let [byteMs, portMs] = [0n, 0n];
      for (const { bytes, ms, active } of steps) {
        await resize(file, bytes);
        await port.become(active ? 'active' : 'pending');
        await pass(ms);
        byteMs += BigInt(bytes) * BigInt(ms);
        portMs += active ? BigInt(ms) : 0n;
        await record();
      }
      await pass(hour);
      const last = steps.at(-1)!;
      byteMs += BigInt(last.bytes) * BigInt(hour);
      portMs += last.active ? BigInt(hour) : 0n;
      await record();
      const rows = await fixture.sql<{ kind: string; reason: string; amount: string }>(
        `SELECT a.kind::text AS kind, t.reason, sum(e.amount)::text AS amount FROM "Entry" e JOIN "Account" a ON a.id = e."accountId"
         JOIN "Transfer" t ON t.id = e."transferId" WHERE t.subject = $1 AND t.kind = 'usage' GROUP BY 1, 2`,
        [owner],
      );
      const amount = (of: string, reason: string) =>
        BigInt(rows.find((row) => row.kind === of && row.reason === reason)?.amount ?? 0);
      const expected = {
        'files and logs in the repository': divideHalfEven(byteMs * 333n, servicePartsPerMicro),
        'published ports': divideHalfEven(portMs * 777n * BigInt(giB), servicePartsPerMicro),
      };
      for (const [reason, micros] of Object.entries(expected)) {
        // What one rounding leaves is in the next, so that all together are within half a micro-unit of the exact cost.
        expect(-amount('owner', reason)).toBe(micros);
        expect(amount('site', reason) + amount('tax', reason)).toBe(micros);
      }
      const months = new Set<string>();
      let inLines = 0n;
      for (let at = Date.parse('2026-11-01'); monthOf(at) <= monthOf(fixture.now); at = monthInterval(monthOf(at))!.untilMs) {
        months.add(monthOf(at));
        const month = monthOf(at);
        const request = { owner, month, ...monthInterval(month)!, nowMs: fixture.now };
        const part = (await readStatement(fixture.ledger, request)).parts[0];
        for (const line of part?.lines ?? []) if (line.subject === owner) inLines += line.amountMicros;
      }
      expect(-inLines).toBe(expected['files and logs in the repository'] + expected['published ports']);
      await port.become('removing');
      await fixture.ledger.file.delete({ where: { id: file } });
      await pass(hour);
      await record();
    }),
    { numRuns: Number(process.env.BERTH_PROPERTY_RUNS ?? 5) },
  );
  expect((await verifyBooks(fixture.ledger)).problems).toBe(0);
});

it('stays due where the account does not have it: told once, at risk, and charged when there is money', async () => {
  const { owner, account } = await site.addBuyer(1);
  await site.addBook(hourly({ services: { repositoryGiBHourMicros: '600000' } }));
  await pass(0);
  await addFile(owner, giB);
  const atRisk = async () => (await readMoneyAtRisk(fixture.ledger)).find(({ currency }) => currency === 'EUR')?.uncollected ?? 0;
  const before = await atRisk();
  const unpaid = async () =>
    (await fixture.ledger.event.findMany({ where: { ownerId: owner, type: ownerUsageTypes.unpaid } })).map(
      ({ data }) => UsageUnpaidData.parse(data).dueMicros,
    );
  await pass(hour);
  await record();
  expect([await site.balance(account), await unpaid()]).toEqual([0.4, []]);
  for (let n = 0; n < 2; n += 1) {
    await pass(hour);
    await record();
  }
  expect([await site.balance(account), await unpaid(), (await atRisk()) - before]).toEqual([0, ['200000'], 800_000]);
  await site.deposit(account, 2);
  await pass(hour);
  await record();
  expect([await site.balance(account), await unpaid(), await atRisk()]).toEqual([0.6, ['200000'], before]);
});

it('costs nothing without a price book, or without prices of services', async () => {
  const { owner, account } = await site.addBuyer(1);
  await pass(0);
  await addFile(owner, giB);
  await pass(hour);
  expect(await record()).toBeGreaterThan(0);
  await site.addBook(hourly());
  await pass(hour);
  await record();
  expect(await site.balance(account)).toBe(1);
  expect((await recorded(owner)).length).toBe(2);
});
