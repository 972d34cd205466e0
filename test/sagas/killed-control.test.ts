import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { acceptDrain } from '../../ledger/drains/accept-drain.ts';
import type { TaskId } from '../../model/ids.ts';
import {
  controlQueue,
  shortWorkflowTaskTimeout,
  signalName,
  workflowId,
  workflowTaskTimeoutOf,
  workflowType,
} from '../../model/temporal.ts';
import { expectEmptySite, expectEverythingOrNothing } from './everything-or-nothing.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';
import { type MortalControls, openMortalControls } from './mortal-controls.ts';

/** The moment after the effect is the harder one: no other process has the result yet. */
const deaths = [
  ...[
    'reserveTask',
    'advanceTask stagingIn',
    'recordImageCached',
    'advanceTask starting',
    'advanceTask running',
    'advanceTask stagingOut',
    'finishTask',
  ].map((call) => ({ call, when: 'after' as const })),
  { call: 'finishTask', when: 'before' as const },
];

let site: FakeSite;
let controls: MortalControls;

beforeAll(async () => {
  site = await openFakeSite();
  controls = await openMortalControls(site);
  await site.stopWorker('control');
});
afterAll(async () => {
  await site.stop();
  await controls.end();
});

test('a control worker that is killed in any step on the ledger costs no task its end', async () => {
  const ids = await Promise.all(deaths.map(() => site.accept()));
  const planned = Object.fromEntries(ids.map((id, index) => [workflowId.task(id), deaths[index]!]));
  const ends = await controls.under(planned, async () => {
    const start = (id: TaskId) => {
      const options = { taskQueue: controlQueue, workflowId: workflowId.task(id), workflowTaskTimeout: '2s' } as const;
      return site.client.workflow.execute(workflowType.task, { ...options, args: [id, site.pace] });
    };
    return Promise.all(ids.map(start));
  });
  expect(ends).toEqual(ids.map(() => 'succeeded'));
  for (const [index, id] of ids.entries()) {
    expect(controls.died(workflowId.task(id)), `died ${deaths[index]!.when} ${deaths[index]!.call}`).toBe(true);
    await expectEverythingOrNothing(site, id);
  }
  await expectEmptySite(site);
}, 180_000);

test('a drain whose control worker is killed continues after the timeout of one workflow task, and no later', async () => {
  const host = site.hosts[0]!.id;
  const nowMs = Date.now();
  const how = { strategy: 'auto', mode: 'auto', moveDisks: false, suspendInPlace: 'never', confidence: 0.99 } as const;
  const order = { ...how, host, deadlineMs: nowMs + 3600_000, returnAfterMs: null, returnVms: false, reason: null, nowMs };
  const id = await site.ledger.$transaction((tx) => acceptDrain(tx, { ...order, owner: site.owner }));
  const workflow = workflowId.drain(host, 1);
  const end = await controls.under({ [workflow]: { call: 'stepDrain', when: 'after' } }, () =>
    site.client.workflow.execute(workflowType.drain, {
      ...workflowTaskTimeoutOf(workflowType.drain),
      taskQueue: controlQueue,
      workflowId: workflow,
      args: [id],
    }),
  );
  expect([end, controls.died(workflow)]).toEqual(['empty', true]);
  await expectTakenOverSoon(workflow);
}, 120_000);

test.each(['before', 'after'] as const)(
  'a planner that is killed %s its step is taken over, and starts a promise once',
  async (when) => {
    const planner = workflowId.planner();
    await rm(join(controls.folder, planner), { force: true });
    // Starts whose workers were killed in the cases before aren't what is usual: this one would be refused as too soon.
    await site.ledger.lease.updateMany({ data: { leadMs: null } });
    const startAt = new Date(Date.now() + 25_000).toISOString();
    const id = await site.accept({ lease: { kind: 'reservation', startAt, durationS: 600 } });
    const vm = () => site.ledger.vm.findFirstOrThrow({ where: { taskId: id } });
    await controls.under({ [planner]: { call: 'stepPlan', when } }, async () => {
      await site.start(id);
      // Its VM is due by then, however long its start is expected to take.
      await expect.poll(() => Date.now(), { timeout: 30_000, interval: 200 }).toBeGreaterThan(Date.parse(startAt) - 2_000);
      expect((await vm()).state).toBe('pending');
      await site.startPlanner();
      expect(await site.ended(id)).toBe('succeeded');
      // The task may have found its placement by itself.
      await expect.poll(() => timeoutOf(planner), { timeout: 30_000 }).not.toBeNull();
      await site.client.workflow.getHandle(planner).terminate();
    });
    expect([controls.died(planner), (await vm()).generation]).toEqual([true, 1]);
    await expectEverythingOrNothing(site, id);
    await expectTakenOverSoon(planner);
  },
  120_000,
);

/** Control workers load the workflows' code first, which takes a busy machine long. */
const startOfWorkers = { timeout: 90_000, interval: 200 };

test('a planner that waits when its control worker is killed is taken over as soon', async () => {
  const planner = workflowId.planner();
  const handle = site.client.workflow.getHandle(planner);
  const steps = async () =>
    (await handle.fetchHistory()).events!.filter((event) => event.markerRecordedEventAttributes != null).length;
  await controls.under({}, async (killAll) => {
    await site.startPlanner();
    await expect.poll(async () => (await steps()) > 0, startOfWorkers).toBe(true);
    killAll();
    const before = await steps();
    await handle.signal(signalName.replan);
    await expect.poll(async () => (await steps()) > before, startOfWorkers).toBe(true);
    await handle.terminate();
  });
  // It was kept for the killed worker, which had its history.
  const waitedMs = await timeoutOf(planner);
  expect(waitedMs).toBeGreaterThan(0);
  expect(waitedMs).toBeLessThan(takeoverLimitMs);
}, 240_000);

/** How long the server waited for a workflow task before it gave it to another worker; null: it has not. */
async function timeoutOf(workflow: string): Promise<number | null> {
  const { events } = await site.client.workflow.getHandle(workflow).fetchHistory();
  const timedOut = events!.find((event) => event.workflowTaskTimedOutEventAttributes != null);
  if (timedOut === undefined) return null;
  const { startedEventId, scheduledEventId } = timedOut.workflowTaskTimedOutEventAttributes!;
  const since = Number(startedEventId) > 0 ? startedEventId : scheduledEventId;
  return msOf(timedOut) - msOf(events!.find(({ eventId }) => String(eventId) === String(since))!);
}

/** A killed planner is to be taken over within this time. */
const takeoverLimitMs = 5_000;

/** By the server's clock, which leaves out how fast this machine starts a worker; Temporal's own ten seconds are longer. */
async function expectTakenOverSoon(workflow: string): Promise<void> {
  const waitedMs = await timeoutOf(workflow);
  expect(waitedMs).toBeGreaterThanOrEqual(shortWorkflowTaskTimeout.workflowTaskTimeout);
  expect(waitedMs).toBeLessThan(takeoverLimitMs);
}

function msOf({ eventTime }: { eventTime?: { seconds?: unknown; nanos?: number | null } | null }): number {
  return Number(eventTime?.seconds) * 1000 + (eventTime?.nanos ?? 0) / 1e6;
}
