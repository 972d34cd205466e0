import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import type { TaskId } from '../../model/ids.ts';
import { workflowId } from '../../model/temporal.ts';
import { cleanRun, forward, lastCancellable } from './clean-run.ts';
import { expectEmptySite, expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, everyRestart, everyRun, type Fault } from './faults.ts';

vi.setConfig({ maxConcurrency: 12, testTimeout: 240_000 });

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite();
});
afterAll(() => site.stop());

/** The index of a call among the forward steps of a task, or -1. */
const placeOf = (call: Call): number => forward.findIndex(({ name, nth }) => name === call.name && nth === call.nth);

/** The states in which a task may end after this fault. */
function legalEnds(call: Call, fault: Fault): string[] {
  if (fault.startsWith('refused')) return placeOf(call) >= 0 && call.name !== 'loadTask' ? ['failed'] : ['succeeded'];
  if (fault.startsWith('cancelled')) {
    if (placeOf(call) < 0) return ['succeeded'];
    return placeOf(call) <= lastCancellable ? ['cancelled'] : ['cancelled', 'succeeded'];
  }
  return ['succeeded'];
}

test('the matrix covers every call of a task', async () => {
  const id = await site.submit();
  await site.ended(id);
  const recorded = site.faults.callsOf(workflowId.task(id)).map(({ name, nth }) => `${name} ${nth}`);
  expect(recorded.sort()).toEqual(cleanRun.map(({ name, nth }) => `${name} ${nth}`).sort());
});

test.concurrent.each(everyRun(cleanRun))('$at: $what', async ({ calls, fault }) => {
  const id = await site.accept();
  site.faults.plan(workflowId.task(id), calls, fault);
  await site.start(id);
  const state = await site.ended(id);
  expect(site.faults.fired(workflowId.task(id))).toBe(true);
  const before = await rowsOf(site, id);
  if (fault === 'late') await site.faults.runLate(workflowId.task(id));
  expect(await rowsOf(site, id)).toEqual(before);
  expect(before.task.state).toBe(state);
  for (const call of calls) expect(legalEnds(call, fault)).toContain(state);
  if (state === 'failed') expect(before.task.error).toMatchObject({ code: 'disk-full' });
  await expectEverythingOrNothing(site, id);
});

async function expectItsEnd(id: TaskId): Promise<void> {
  await site.until('its workflow is started again', async () => site.faults.restarted(workflowId.task(id)));
  expect(['succeeded', 'failed']).toContain(await site.ended(id));
  await expectEverythingOrNothing(site, id);
}

test.concurrent.each(everyRestart(cleanRun))('$name $nth, started again: $fault', async ({ fault, ...call }) => {
  const id = await site.accept();
  site.faults.plan(workflowId.task(id), call, fault);
  await site.start(id);
  await expectItsEnd(id);
});

test.concurrent('nothing is left of a task whose workflow was ended, and advances it once the next one has read it', async () => {
  const id = await site.accept();
  // Then the ledger refuses the first step of the next one.
  site.faults.planOvertaking(workflowId.task(id), { name: 'recordImageCached', nth: 1 });
  await site.start(id);
  await expectItsEnd(id);
});

test('afterwards the site is empty', () => expectEmptySite(site));
