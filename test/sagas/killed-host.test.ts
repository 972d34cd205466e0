import { afterAll, beforeAll, expect, test } from 'vitest';
import { workflowId } from '../../model/temporal.ts';
import { expectEmptySite, expectEverythingOrNothing } from './everything-or-nothing.ts';
import { type FakeSite, openFakeSite } from './fake-site.ts';
import { type Moment, MortalHost } from './mortal-host.ts';

const plans = new Map<string, Moment>();
const mortals: MortalHost[] = [];
/** The number of concurrent tasks, on two cores. */
const atOnce = 24;

let site: FakeSite;
beforeAll(async () => {
  site = await openFakeSite({
    hostActivities: (host) => {
      const mortal = new MortalHost(host.ports, plans);
      mortals.push(mortal);
      return mortal.activities();
    },
  });
});
afterAll(() => site.stop());

/** Every moment of a clean run, as a clean run has recorded them. */
async function moments(): Promise<Moment[]> {
  await site.ended(await site.submit());
  const steps = ['stageIn', 'ensureRunning', 'runCommand', 'stageOut', 'removeVm'];
  const found = mortals.flatMap((mortal) =>
    [...mortal.methods].flatMap(([step, methods]) => [...methods].map((method) => ({ step, method }))),
  );
  const known = new Map(found.map((one) => [`${one.step} ${one.method}`, one]));
  return [...known.values()]
    .filter(({ step }) => steps.includes(step))
    .flatMap((one) => (['before', 'after'] as const).map((when) => ({ ...one, when })));
}

async function surviveAt(moment: Moment): Promise<string | null> {
  const id = await site.accept();
  plans.set(workflowId.task(id), moment);
  await site.start(id);
  try {
    expect(await site.ended(id)).toBe('succeeded');
    expect(plans.has(workflowId.task(id)), 'died').toBe(false);
    await expectEverythingOrNothing(site, id);
    return null;
  } catch (error) {
    return `${moment.step}, ${moment.when} ${moment.method}: ${(error as Error).message}`;
  }
}

test('a host worker that is killed before or after any call of its drivers costs no task its end', async () => {
  const open = await moments();
  expect(open.length).toBeGreaterThan(40);
  const failed: string[] = [];
  const worker = async (): Promise<void> => {
    for (let moment = open.pop(); moment !== undefined; moment = open.pop()) {
      const failure = await surviveAt(moment);
      if (failure !== null) failed.push(failure);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  expect(failed).toEqual([]);
  await expectEmptySite(site);
}, 180_000);
