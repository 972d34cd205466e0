import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { workflowId } from '../../model/temporal.ts';
import { cleanRun, forward, lastCancellable } from './clean-run.ts';
import { expectEmptySite, expectEverythingOrNothing, rowsOf } from './everything-or-nothing.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';
import { type Call, type Fault, faults } from './faults.ts';

vi.setConfig({ maxConcurrency: 24, testTimeout: 240_000 });

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite();
});
afterAll(() => site.stop());

const isForward = (call: Call): boolean => forward.includes(call);

/** In which states a task may end that this befell. */
function legalEnds(call: Call, fault: Fault): string[] {
  if (fault.startsWith('refused')) return isForward(call) && call.name !== 'loadTask' ? ['failed'] : ['succeeded'];
  if (fault.startsWith('cancelled')) {
    if (!isForward(call)) return ['succeeded'];
    return forward.indexOf(call) <= lastCancellable ? ['cancelled'] : ['cancelled', 'succeeded'];
  }
  return ['succeeded'];
}

test('the matrix covers every call of a task', async () => {
  const id = await site.submit();
  await site.ended(id);
  const recorded = site.faults.callsOf(workflowId.task(id)).map(({ name, nth }) => `${name} ${nth}`);
  expect(recorded.sort()).toEqual(cleanRun.map(({ name, nth }) => `${name} ${nth}`).sort());
});

describe.each(Object.entries(faults) as [Fault, string][])('%s: %s', (fault) => {
  test.concurrent.each(cleanRun)('$name $nth', async (call) => {
    const id = await site.accept();
    site.faults.plan(workflowId.task(id), call, fault);
    await site.start(id);
    const state = await site.ended(id);
    expect(site.faults.fired(workflowId.task(id))).toBe(true);
    const before = await rowsOf(site, id);
    if (fault === 'late') await site.faults.runLate(workflowId.task(id));
    expect(await rowsOf(site, id)).toEqual(before);
    expect(before.task.state).toBe(state);
    expect(legalEnds(call, fault)).toContain(state);
    if (state === 'failed') expect(before.task.error).toMatchObject({ code: 'disk-full' });
    await expectEverythingOrNothing(site, id);
  });
});

test('afterwards the site is empty', () => expectEmptySite(site));
