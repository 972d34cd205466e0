import { expect, test } from 'vitest';
import { fullTest } from '../full-test.ts';
import { isFull } from '../tier.ts';
import { waitingLoops } from './loops.ts';
import { type SimulatedWorkflow, simulate } from './simulation.ts';

const hour = 3_600_000;
const day = 24 * hour;
/** A simulated day of some loops takes a dozen seconds. */
const timeoutMs = 3600_000;

async function expectBounded(loop: SimulatedWorkflow, durationMs: number): Promise<void> {
  const simulated = await simulate(loop, durationMs);
  expect(simulated).toMatchObject({ end: 'running', ms: durationMs });
  expect(simulated.longestHistory).toBeLessThan(10_000);
  expect(simulated.largestPayload.bytes).toBeLessThan(256 * 1024);
}

test.each(Object.entries(waitingLoops))(
  '%s has a bounded history',
  (_, { hours, ...loop }) => expectBounded(loop, isFull || hours === undefined ? 30 * day : hours * hour),
  timeoutMs,
);

// Its runs know nothing of each other but a cursor: a round each quarter of an hour instead of each 15 s.
fullTest(
  'a year of the housekeeping has bounded histories',
  () => expectBounded({ ...waitingLoops['the housekeeping']!, args: [60] }, 365 * day),
  timeoutMs,
);
