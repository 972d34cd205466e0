import { afterAll, beforeAll, expect, test } from 'vitest';
import { openTightSite, reservationsOverLoad } from '../site/reservations-over-load.ts';
import { expectNothingLeft, type TestSite } from '../site/the-site.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openTightSite();
});
afterAll(() => here.stop());

test('reservations of all hosts start on time over work that is suspended for them, whoever is killed meanwhile', async () => {
  const victims = [null, 'control', 'temporal'];
  const outcome = await reservationsOverLoad(here, {
    reservations: 3,
    firstInS: 40,
    gapS: 30,
    durationS: 40,
    workS: 45,
    disturb: {
      beforeS: 25,
      act: async (n) => {
        const victim = victims[n];
        if (victim == null) return;
        const child = here.site.child(victim);
        const restarts = child.restarts();
        child.kill('SIGKILL');
        await child.servesAgain(restarts, 30_000);
      },
    },
  });
  const told = JSON.stringify(outcome);
  expect(Math.max(...outcome.lateS), told).toBeLessThan(2);
  expect(outcome.satisfaction, told).toBeGreaterThanOrEqual(0.98);
  expect(outcome.work, told).toMatchObject({ right: outcome.work.tasks, startedTwice: 0, undisturbed: 0 });
  await expectNothingLeft(here);
}, 540_000);
