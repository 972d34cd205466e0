import { setTimeout as delay } from 'node:timers/promises';
import { openTightSite, reservationsOverLoad } from '../test/site/reservations-over-load.ts';
import { leftovers } from '../test/site/the-site.ts';
import { logProgress, printFigure } from './figures.ts';
import type { BenchOptions } from './options.ts';

const victims = [null, 'control', 'temporal'];

/**
 * `reservations.*`: three reservations that use all of a real site's hosts, over best-effort work that fills it; in turn
 * nothing, the control worker and Temporal are killed while one of them is pending. Baselines are the promises.
 */
export async function benchReservations({ runs }: BenchOptions): Promise<void> {
  for (let run = 0; run < Math.max(1, runs ?? 1); run += 1) await trial();
}

async function trial(): Promise<void> {
  const test = await openTightSite();
  try {
    const outcome = await reservationsOverLoad(test, victims);
    logProgress(JSON.stringify(outcome));
    const { lateS, satisfaction, work } = outcome;
    for (const [n, victim] of victims.entries())
      printFigure(`reservations.late.${victim === null ? 'undisturbed' : `${victim}Killed`}`, lateS[n]!, 's', 2);
    printFigure('reservations.satisfaction', satisfaction, 'of what was promised', 1);
    const { suspensions, undisturbed } = work;
    printFigure('reservations.work.right', work.right, 'tasks', work.tasks, { suspensions, undisturbed });
    printFigure('reservations.work.startedTwice', work.startedTwice, 'tasks', 0);
    let left = await leftovers(test);
    for (const endMs = Date.now() + 60_000; left.length > 0 && Date.now() < endMs; left = await leftovers(test)) await delay(250);
    printFigure('reservations.left', left.length, 'things', 0);
  } finally {
    await test.stop();
  }
}
