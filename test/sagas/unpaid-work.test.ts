import { afterAll, beforeAll, expect, test } from 'vitest';
import { verifyBooks } from '../../ledger/books/verify-books.ts';
import { openBill } from '../../ledger/market/open-bill.ts';
import { findBill } from '../../ledger/market/read-bills.ts';
import { inTransaction } from '../../ledger/transaction.ts';
import type { TaskId } from '../../model/ids.ts';
import { expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import type { FakeSite } from './fake-site.ts';
import { closeLeaseSite, leaseOf, openLeaseSite, untilTask, week } from './lease-site.ts';
import { addPrices, collectNow, hourUnits, setMoney } from './money-on-site.ts';

/** Tasks whose owner's money ends while their commands run. */

let site: FakeSite;

beforeAll(async () => {
  site = await openLeaseSite();
  await addPrices(site);
});
afterAll(() => closeLeaseSite(site));

/** A task that runs, and whose owner has no more than its hold. */
async function runningPoor(order: Record<string, unknown>, nodes: number): Promise<TaskId> {
  const lease = { kind: 'bestEffort', durationS: week, ...(order.lease as object | undefined) };
  const id = await site.accept({ timeoutS: week, nodes, ...order, lease });
  const { ownerId: owner, leaseId } = await site.ledger.task.findUniqueOrThrow({ where: { id } });
  await setMoney(site, owner, hourUnits * nodes);
  await inTransaction(site.ledger, (tx) =>
    openBill(tx, { owner, lease: leaseId, subject: id, quote: undefined, keyId: 'key_test', nowMs: Date.now() }),
  );
  await site.start(id);
  await untilTask(site, id, 'running');
  return id;
}

const collect = (id: TaskId, keepS?: number) => collectNow(site, id, keepS);

async function suspendedUnpaid(order: Record<string, unknown>, nodes = 1): Promise<TaskId> {
  const id = await runningPoor(order, nodes);
  await collect(id);
  expect(await findBill(site.ledger, null, id)).toMatchObject({ warnedAt: expect.any(Date), suspendedAt: null });
  await site.until('it is to be suspended', async () => {
    await collect(id);
    return (await findBill(site.ledger, null, id)).suspendedAt !== null;
  });
  await site.until('it is suspended', async () => (await leaseOf(site, id)).suspension === 'suspended');
  return id;
}

async function expectSettled(id: TaskId): Promise<void> {
  expect(await findBill(site.ledger, null, id)).toMatchObject({ endedAt: expect.any(Date), heldMicros: 0n });
  expect((await verifyBooks(site.ledger)).found).toEqual([]);
  await expectEverythingOrNothing(site, id);
}

test('work is suspended, and others take its place; with money it resumes, and its command was started once', async () => {
  const work = await suspendedUnpaid({ command: ['long'] });
  // There is room, and nothing else waits: it is not resumed for that, and what comes runs.
  for (let n = 0; n < 3; n += 1) expect(await site.ended(await site.submit())).toBe('succeeded');
  expect(await leaseOf(site, work)).toMatchObject({ suspension: 'suspended', suspensions: 1 });
  await setMoney(site, (await rowsOf(site, work)).task.ownerId, 50_000);
  await collect(work);
  expect(await site.ended(work)).toBe('succeeded');
  expect(await leaseOf(site, work)).toMatchObject({ suspensions: 1, suspension: null });
  const { vms } = await rowsOf(site, work);
  expect(site.hosts.map((host) => host.jobsStarted.get(vms[0]!.id) ?? 0).reduce((a, b) => a + b)).toBe(1);
  await expectSettled(work);
});

test('a gang that yields to no promise is suspended as well, and cancelled at last with the outputs that it keeps', async () => {
  const lease = { preemptible: false };
  const work = await suspendedUnpaid({ command: ['checkpoints'], keepOutputs: true, lease }, 2);
  await site.until('its end is requested', async () => {
    await collect(work, 0);
    return (await rowsOf(site, work)).task.cancelRequestedAt !== null;
  });
  await site.cancel(work);
  expect(await site.ended(work)).toBe('cancelled');
  const { task } = await rowsOf(site, work);
  expect(task.outputs).toMatchObject([0, 1].map((node) => ({ path: 'out/checkpoint', node, sizeBytes: 10 })));
  await expectSettled(work);
});
