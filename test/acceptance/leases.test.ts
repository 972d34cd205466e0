import { afterAll, beforeAll, expect, test } from 'vitest';
import { openTightSite, reservationsOverLoad } from '../site/reservations-over-load.ts';
import { expectNothingLeft, type TestSite } from '../site/the-site.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openTightSite();
});
afterAll(() => here.stop());

test('reservations of all hosts start on time over work that is suspended for them, whatever process is killed meanwhile', async () => {
  const outcome = await reservationsOverLoad(here, [null, 'control', 'temporal']);
  const details = JSON.stringify(outcome);
  expect(Math.max(...outcome.lateS), details).toBeLessThan(2);
  expect(outcome.satisfaction, details).toBeGreaterThanOrEqual(0.98);
  expect(outcome.work, details).toMatchObject({ right: outcome.work.tasks, startedTwice: 0, undisturbed: 0 });
  await expectNothingLeft(here);
}, 540_000);
