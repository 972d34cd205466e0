import { expect, test, vi } from 'vitest';
import type { Logger } from '../../../model/log.ts';
import { startRepeating } from '../../../workers/repeat.ts';

const hour = 3_600_000;

/** A step whose runs end when the test says how. */
function openLoop(intervalMs: number) {
  const runs: (PromiseWithResolvers<'done' | 'more'> & { begunMs: number })[] = [];
  const log = { warn: vi.fn(), error: vi.fn() };
  const loop = startRepeating({
    step: () => {
      const run = Promise.withResolvers<'done' | 'more'>();
      runs.push({ ...run, begunMs: performance.now() });
      return run.promise;
    },
    intervalMs,
    log: log as unknown as Logger,
    level: 'error',
    failure: 'the step failed',
  });
  const began = (count: number) => expect.poll(() => runs.length, { interval: 1 }).toBe(count);
  return { runs, log, loop, began };
}

test('a step runs at once, and again after the interval', async () => {
  const { runs, loop, began } = openLoop(50);
  expect(runs).toHaveLength(1);
  const endedMs = performance.now();
  runs[0]!.resolve('done');
  await began(2);
  // Timers count whole milliseconds.
  expect(runs[1]!.begunMs - endedMs).toBeGreaterThanOrEqual(49);
  runs[1]!.resolve('done');
  await loop.stop();
});

test('a step with more to do runs again without a wait', async () => {
  const { runs, loop, began } = openLoop(hour);
  runs[0]!.resolve('more');
  await began(2);
  runs[1]!.resolve('done');
  await loop.stop();
});

test('a step that fails is logged, and runs again after the interval', async () => {
  const { runs, log, loop, began } = openLoop(1);
  const error = new Error('no answer');
  runs[0]!.reject(error);
  await began(2);
  expect(log.error.mock.calls).toEqual([[{ err: error }, 'the step failed']]);
  runs[1]!.resolve('done');
  await loop.stop();
});

test('a stop ends the wait, and waits for the step that runs', async () => {
  const waiting = openLoop(hour);
  waiting.runs[0]!.resolve('done');
  await waiting.loop.stop();

  const busy = openLoop(1);
  let stopped = false;
  const stop = busy.loop.stop().then(() => {
    stopped = true;
  });
  await new Promise((resolve) => setImmediate(resolve));
  expect(stopped).toBe(false);
  busy.runs[0]!.resolve('more');
  await stop;
  expect([waiting.runs.length, busy.runs.length]).toEqual([1, 1]);
});
