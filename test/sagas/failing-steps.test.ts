import { afterAll, beforeAll, expect, test } from 'vitest';
import type { FakeRun } from '../../drivers/fake/host.ts';
import type { TaskId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import { fullTest } from '../full-test.ts';
import { expectEverythingOrNothing } from './everything-or-nothing.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';

/** Two and a half times as many as a control worker has slots for workflow tasks. */
const failingTasks = 100;
const healthyTasks = 7;

const brief: FakeRun = { exitCode: 0, durationMs: 10, log: '', files: {} };

let site: FakeSite;
beforeAll(async () => {
  // As at a site: the waits between attempts decide how much the failing tasks disturb.
  site = await openFakeSite({ pace: 1, run: () => brief });
});
afterAll(() => site.stop());

const order = { outputs: [] };

/** The median of some tasks, one after the other, in ms. */
async function medianTaskMs(image: string): Promise<number> {
  const times: number[] = [];
  for (let n = 0; n < healthyTasks; n += 1) {
    const sinceMs = performance.now();
    expect(await site.ended(await site.submit({ ...order, image }))).toBe('succeeded');
    times.push(performance.now() - sinceMs);
  }
  return times.sort((a, b) => a - b)[Math.floor(healthyTasks / 2)]!;
}

fullTest('a hundred tasks whose end the ledger refuses slow a healthy one by less than a second', async () => {
  const image = await site.publishImage();
  await medianTaskMs(image);
  const aloneMs = await medianTaskMs(image);
  const failing = await Promise.all(Array.from({ length: failingTasks }, () => site.accept({ ...order, image })));
  for (const id of failing) site.faults.breakForever(workflowId.task(id), 'finishTask');
  await Promise.all(failing.map((id) => site.start(id)));
  const fail = (id: TaskId) => site.faults.callsOf(workflowId.task(id)).some(({ name }) => name === 'finishTask');
  await site.until('all of them fail', async () => failing.every(fail));
  const besideMs = await medianTaskMs(image);
  expect(besideMs - aloneMs).toBeLessThan(1000);

  site.faults.repair();
  expect(await Promise.all(failing.map((id) => site.ended(id)))).toEqual(failing.map(() => 'succeeded'));
});

test.each(['succeeded', 'failed'])('what the ledger can not hold of a task that has %s keeps it from no end', async (would) => {
  const id = await site.accept(would === 'failed' ? { outputs: ['absent'] } : order);
  site.faults.plan(workflowId.task(id), { name: 'finishTask', nth: 1 }, 'refusedBefore', 'ledger-refused');
  await site.start(id);
  expect(await site.ended(id)).toBe('failed');
  const task = await site.ledger.task.findUniqueOrThrow({ where: { id } });
  expect(task).toMatchObject({ state: 'failed', exitCode: null, error: { code: 'ledger-refused' } });
  await expectEverythingOrNothing(site, id);
});
