import { afterAll, beforeAll, expect, test } from 'vitest';
import { askDrain, crowded, earliestDrain, isOver, secondsFrom, untilDrain } from '../site/drains.ts';
import { counter, faultOf, numbersOf } from '../site/moves.ts';
import { expectNothingLeft, openSite, type TestSite } from '../site/the-site.ts';
import { answered, serving, stopServing } from '../site/web-load.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openSite(3, crowded);
});
afterAll(() => here.stop());

/** Each takes ten seconds and more: one after the other, so that some are always starting, running, or ending. */
const numbers = 50;

/** Runs one task after the other, until it is stopped; returns the tasks that ran. */
function stream(): { stop(): Promise<string[]> } {
  let stopping = false;
  const ran: string[] = [];
  const running = (async () => {
    while (!stopping) {
      const { id } = await here.client.submit(counter(numbers, 128));
      ran.push(id);
      const { state, error } = await here.client.over(id, 300);
      if (state !== 'succeeded') throw new Error(`${id} is ${state}: ${JSON.stringify(error)}`);
    }
    return ran;
  })();
  // Observed when it is stopped, which may be much later.
  running.catch(() => undefined);
  return {
    stop: () => {
      stopping = true;
      return running;
    },
  };
}

test('each of three hosts is emptied in turn and gets its VMs back: no task fails, every web request is answered', async () => {
  const web = await serving(here, { timeoutS: 3600, lease: { kind: 'bestEffort', durationS: 7200 } });
  const streams = [stream(), stream()];
  for (const { id: host } of here.site.hosts) {
    const deadlineMs = (await earliestDrain(here, host)) + 5000;
    const returnAfter = new Date(deadlineMs + 5000).toISOString();
    const requested = await askDrain(here, host, deadlineMs, { returnAfter });
    if (requested === null) throw new Error(`${host} can't be empty by the time that was promised, and five seconds`);
    const held = await untilDrain(here, requested.id, (drain) => isOver(drain) || drain.state === 'held');
    expect(held, JSON.stringify(held)).toMatchObject({ remaining: [] });
    const earlyS = secondsFrom(held.emptiedAt!, held.deadline);
    expect(earlyS).toBeGreaterThanOrEqual(0);
    const back = await untilDrain(here, requested.id);
    expect(back, JSON.stringify(back)).toMatchObject({ state: 'returned', remaining: [] });
    console.log(`${host}: ${held.progress.moved} VMs moved, empty ${earlyS.toFixed(1)} s before its deadline`);
  }
  const ran = (await Promise.all(streams.map((one) => one.stop()))).flat();
  for (const id of ran) {
    const counted = await numbersOf(here, id);
    expect([counted.length, faultOf(counted)]).toEqual([numbers, null]);
  }
  expect((await answered(here, web.id)).length).toBeGreaterThan(100);
  const lines = await stopServing(here, web);
  expect(lines).toEqual(Array.from({ length: lines.length }, (_, index) => String(index + 1)));
  console.log(`${ran.length} tasks succeeded, ${lines.length} requests answered`);
  await expectNothingLeft(here);
});
