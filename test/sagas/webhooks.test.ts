import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { changeWebhook, changeWebhookRemoved } from '../../ledger/webhooks/change-webhook.ts';
import { workflowId } from '../../model/temporal.ts';
import { isFull } from '../tier.ts';
import { type Call, type Fault, faults } from './faults.ts';
import { Receiver, WebhookSite } from './webhook-site.ts';

vi.setConfig({ maxConcurrency: 20, testTimeout: 240_000 });

let site: WebhookSite;
const receivers: Receiver[] = [];
beforeAll(async () => {
  site = await WebhookSite.open();
  await site.startWorker();
});
afterAll(async () => {
  await site.stop();
  for (const receiver of receivers) receiver.stop();
});

async function receiver(): Promise<Receiver> {
  const started = await Receiver.start();
  receivers.push(started);
  return started;
}

async function happen(owner: string, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) await site.happen(owner);
}

/** Every event was taken, in order, none left out. */
async function expectAll(taking: Receiver, owner: string): Promise<void> {
  const expected = await site.sequences(owner);
  await site.until('all events were taken', () => new Set(taking.taken).size >= expected.length, 150_000).catch(() => undefined);
  expect(taking.firsts()).toEqual(expected);
  expect(taking.problems).toEqual([]);
}

test('events are delivered in order and soon, and an endpoint that waits costs nothing', async () => {
  const [owner, taking] = [await site.owner(), await receiver()];
  const id = await site.add(taking, owner);
  for (let round = 0; round < 3; round += 1) {
    await happen(owner, 20);
    await expectAll(taking, owner);
    await site.until('it waits', async () => (await site.row(id)).dueAt === null);
  }
  expect(taking.taken).toHaveLength(60);
  const lags = taking.lagMs.toSorted((a, b) => a - b);
  expect(lags[lags.length >> 1]!).toBeLessThan(1500);
  const { attempts, cursor, failures } = await site.row(id);
  expect([attempts, failures]).toEqual([60n, 0]);
  expect(Number(cursor)).toBeGreaterThanOrEqual((await site.sequences(owner)).at(-1)!);
});

describe('a receiver', () => {
  test('that answers 500 at random, redirects, is silent, and forgets, takes each event in order', async () => {
    const [owner, taking] = [await site.owner(), await receiver()];
    const answers = [
      { status: 200 },
      { status: 200 },
      { status: 500 },
      { status: 302, headers: { location: '/hook' } },
      { status: 200 },
    ];
    taking.answering = (n) => (n % 17 === 5 ? null : answers[n % answers.length]!);
    await site.add(taking, owner);
    await happen(owner, 12);
    await expectAll(taking, owner);
    expect(taking.requests).toBeGreaterThan(12);
  });

  test('that is gone has its endpoint disabled, and takes what it missed once it is activated', async () => {
    const [owner, taking] = [await site.owner(), await receiver()];
    taking.answering = () => ({ status: 410 });
    const id = await site.add(taking, owner);
    await happen(owner, 3);
    await site.until('it is disabled', async () => (await site.row(id)).state === 'disabled');
    await site.until('its workflow has ended', async () => {
      const { status } = await site.client.workflow.getHandle(workflowId.webhook(id)).describe();
      return status.name === 'COMPLETED';
    });
    expect(taking.requests).toBe(1);
    await happen(owner, 2);
    taking.answering = () => ({ status: 200 });
    await changeWebhook(site.ledger, owner, id, { state: 'active' }, Date.now());
    await expectAll(taking, owner);
  });

  test('that is dead does not hold up another', async () => {
    const [owner, taking, dead] = [await site.owner(), await receiver(), await receiver()];
    dead.answering = () => null;
    for (let n = 0; n < 30; n += 1) await site.add(dead, owner);
    await site.add(taking, owner);
    await happen(owner, 1);
    await site.until('the dead ones were tried', () => dead.requests >= 30);
    for (let round = 0; round < 10; round += 1) {
      await happen(owner, 2);
      await site.until('they were taken', () => taking.taken.length >= 3 + 2 * round);
    }
    await expectAll(taking, owner);
    // One after the other the dead ones would take half a minute; `npm run bench -- webhooks` has the percentiles.
    const lags = taking.lagMs.toSorted((a, b) => a - b);
    expect(lags[lags.length >> 1]!).toBeLessThan(3000);
  });
});

test('a change is in force at once: another URL gets what the first one did not, a removed one gets nothing', async () => {
  const [owner, first, second] = [await site.owner(), await receiver(), await receiver()];
  const id = await site.add(first, owner);
  await happen(owner, 5);
  await expectAll(first, owner);
  first.answering = () => ({ status: 500 });
  await happen(owner, 3);
  await site.until('it fails', async () => (await site.row(id)).failures > 0);
  await changeWebhook(site.ledger, owner, id, { url: second.url }, Date.now());
  await site.until('the other takes them', () => second.requests >= 3);
  const sequences = await site.sequences(owner);
  // Its signature is by the first one's secret, which this receiver does not have.
  expect(second.problems).toHaveLength(second.requests);
  await site.until('that is recorded', async () => (await site.row(id)).cursor >= BigInt(sequences.at(-1)!));
  await changeWebhookRemoved(site.ledger, owner, id);
  await site.start(id);
  await site.client.workflow.getHandle(workflowId.webhook(id)).result();
  const before = second.requests;
  await happen(owner, 3);
  await new Promise((resolve) => setTimeout(resolve, 1000));
  expect(second.requests).toBe(before);
});

test('a workflow that was ended from outside begins again with the next event', async () => {
  const [owner, taking] = [await site.owner(), await receiver()];
  const id = await site.add(taking, owner);
  await happen(owner, 2);
  await expectAll(taking, owner);
  await site.until('it waits', async () => (await site.row(id)).dueAt === null);
  await site.client.workflow.getHandle(workflowId.webhook(id)).terminate('a test');
  await happen(owner, 2);
  await expectAll(taking, owner);
});

/** Its second call is one that delivers. A cancelled workflow is begun again when its lease in the ledger has ended, after 90 s. */
const call: Call = { name: 'deliverEvents', nth: 2 };
const cases = (Object.keys(faults) as Fault[]).filter((fault) => fault !== 'late' && (isFull || !fault.startsWith('cancelled')));
test.concurrent.each(cases)('deliverEvents: %s, and each event is delivered in order', async (fault) => {
  const [owner, taking] = [await site.owner(), await receiver()];
  const id = await site.add(taking, owner, ['berth.port.*']);
  site.faults.plan(workflowId.webhook(id), call, fault, 'internal');
  for (let round = 0; round < 3; round += 1) {
    await site.until('it waits', async () => (await site.row(id)).dueAt === null, 150_000);
    await happen(owner, 4);
    await expectAll(taking, owner);
  }
  expect(site.faults.fired(workflowId.webhook(id))).toBe(true);
});
