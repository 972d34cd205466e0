import { afterAll, beforeAll, expect, test } from 'vitest';
import { reservationsOverLoad } from '../site/reservations-over-load.ts';
import { expectNothingLeft, openSite, type TestSite } from '../site/the-site.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openSite();
});
afterAll(() => here.stop());

test('reservations of all hosts start on time over work that is suspended for them, whoever is killed meanwhile', async () => {
  const victims = [null, 'control', 'temporal'];
  const outcome = await reservationsOverLoad(here, {
    reservations: 3,
    firstInS: 35,
    everyS: 45,
    durationS: 12,
    workS: 50,
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
  expect(Math.max(...outcome.lateS), JSON.stringify(outcome)).toBeLessThan(2);
  expect(outcome.satisfaction).toBeGreaterThanOrEqual(0.98);
  expect(outcome.work).toMatchObject({ right: outcome.work.tasks, startedTwice: 0 });
  expect(outcome.work.suspensions).toBeGreaterThan(0);
  await expectNothingLeft(here);
}, 400_000);
