import pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { readQuote } from '../../ledger/leases/read-quote.ts';
import { accept, addImage, addOwner, empty, hostFacts, outcomeOf, roomy, useLedger } from './ledger-fixture.ts';

/** Statements of this process that PostgreSQL had to plan: each text, without its indentation. */
const unnamed = new Set<string>();
const { query } = pg.Client.prototype;
beforeAll(() => {
  pg.Client.prototype.query = function (this: pg.Client, ...args: unknown[]) {
    const [first] = args as [string | { text: string; name?: string }];
    const { text, name } = typeof first === 'string' ? { text: first, name: undefined } : first;
    if (!name && !/^\s*(BEGIN|COMMIT|ROLLBACK)/.test(text)) unnamed.add(text.replaceAll(/\s+/g, ' ').trim().slice(0, 200));
    return Reflect.apply(query, this, args);
  } as typeof query;
});
afterAll(() => {
  pg.Client.prototype.query = query;
});

const fixture = useLedger();
let owner: string;
beforeEach(async () => {
  await empty(fixture);
  owner = await addOwner(fixture);
  await addImage(fixture);
  await fixture.activities.registerHost(hostFacts('a', roomy));
});

/** Until each connection has seen a text often enough to name it. */
const warmUps = 12;

async function unnamedOf(act: () => Promise<unknown>): Promise<string[]> {
  for (let n = 0; n < warmUps; n += 1) await act();
  unnamed.clear();
  await act();
  return [...unnamed];
}

test("PostgreSQL keeps the plan of each statement of a task's life", async () => {
  const { activities } = fixture;
  const live = async (): Promise<void> => {
    const task = await accept(fixture, owner);
    const { vmIds } = await activities.loadTask(task);
    await activities.reserveTask(task);
    await activities.advanceTask(task, 'stagingIn', []);
    await activities.advanceTask(task, 'starting', [], 'creating');
    await activities.advanceTask(task, 'running', [], 'running');
    await activities.advanceTask(task, 'stagingOut', [], 'removing');
    await activities.finishTask(task, outcomeOf(), vmIds);
  };
  expect(await unnamedOf(live)).toEqual([]);
});

test('and of what the planner and a quote read', async () => {
  const { activities, ledger } = fixture;
  const order = { owner, image: 'debian-12', resources: { vcpus: 1, memoryMiB: 64, diskMiB: 64 }, nodes: 1, validS: 600 };
  const startAt = new Date(Date.now() + 3_600_000).toISOString();
  const lease = { kind: 'reservation', startAt, durationS: 600 } as const;
  await accept(fixture, owner, { lease });
  expect(await unnamedOf(() => activities.stepPlan())).toEqual([]);
  expect(await unnamedOf(() => readQuote(ledger, { ...order, lease, nowMs: Date.now() }))).toEqual([]);
});
