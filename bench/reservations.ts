import { openTightSite, reservationsOverLoad } from '../test/site/reservations-over-load.ts';
import { expectNothingLeft } from '../test/site/the-site.ts';
import { printLine, say } from './line.ts';
import type { BenchOptions } from './main.ts';

/**
 * `reservations.*`: three reservations that take all of a real site's hosts, with minutes as the scale, over best-effort
 * work that fills it; then the same with the control worker and Temporal killed while they are pending. Baselines are
 * what was promised.
 */
export async function benchReservations({ runs }: BenchOptions): Promise<void> {
  for (let run = 0; run < Math.max(1, runs ?? 1); run += 1) {
    await trial('reservations', []);
    await trial('reservations.killed', ['control', 'temporal', 'control']);
  }
}

async function trial(name: string, victims: string[]): Promise<void> {
  const test = await openTightSite();
  try {
    const outcome = await reservationsOverLoad(test, {
      reservations: 3,
      firstInS: 60,
      gapS: 45,
      durationS: 45,
      workS: 80,
      ...(victims.length > 0 && {
        disturb: {
          beforeS: 20,
          act: async (n) => {
            const child = test.site.child(victims[n]!);
            const restarts = child.restarts();
            child.kill('SIGKILL');
            await child.servesAgain(restarts, 30_000);
          },
        },
      }),
    });
    say(JSON.stringify(outcome));
    const { work } = outcome;
    printLine(`${name}.late.worst`, Math.max(...outcome.lateS), 's', 2, { each: outcome.lateS });
    printLine(`${name}.satisfaction`, outcome.satisfaction, 'of what was promised', 1);
    const { suspensions, undisturbed } = work;
    printLine(`${name}.work.right`, work.right, 'tasks', work.tasks, { suspensions, undisturbed });
    printLine(`${name}.work.startedTwice`, work.startedTwice, 'tasks', 0);
    await expectNothingLeft(test);
  } finally {
    await test.stop();
  }
}
