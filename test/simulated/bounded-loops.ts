import { expect, test } from 'vitest';
import { isFull } from '../tier.ts';
import { waitingLoops } from './loops.ts';
import { type Simulated, type SimulatedWorkflow, simulate } from './simulation.ts';

const hour = 3_600_000;
export const day = 24 * hour;
/** A simulated day of some loops takes a dozen seconds. */
export const timeoutMs = 3600_000;

export async function expectBounded(loop: SimulatedWorkflow, durationMs: number): Promise<void> {
  const simulated = await simulateBounded(loop, durationMs);
  expect(simulated).toMatchObject({ end: 'running', ms: durationMs });
}

/** A loop that its own deadline ends: then there is little left to do. */
async function expectToEnd(loop: SimulatedWorkflow, afterMs: number): Promise<void> {
  const { end, ms } = await simulateBounded(loop, afterMs + hour);
  expect(end).toBe('completed');
  expect(ms).toBeGreaterThanOrEqual(afterMs);
  expect(ms).toBeLessThan(afterMs + 60_000);
}

async function simulateBounded(loop: SimulatedWorkflow, durationMs: number): Promise<Simulated> {
  const simulated = await simulate(loop, durationMs);
  if (isFull) reportFigures(loop, durationMs, simulated);
  expect(simulated.longestHistory).toBeLessThan(10_000);
  expect(simulated.largestPayload.bytes).toBeLessThan(256 * 1024);
  return simulated;
}

/** What docs/hardening.md tells of each loop. */
function reportFigures({ type }: SimulatedWorkflow, durationMs: number, simulated: Simulated): void {
  const { runs, events, longestHistory, largestPayload } = simulated;
  console.info(JSON.stringify({ type, days: durationMs / day, runs, events, longestHistory, largestPayload }));
}

/** Those that somebody asked for; the others are the site's own. Two files have them, for two processors. */
const isWork = (name: string): boolean => /^a (task|VM|migration|build)\b/.test(name);

export function testLoops(of: 'work' | 'site'): void {
  test.each(Object.entries(waitingLoops).filter(([name]) => isWork(name) === (of === 'work')))(
    '%s has a bounded history',
    (_, { hours, endsAfter, ...loop }) =>
      endsAfter === undefined
        ? expectBounded(loop, isFull || hours === undefined ? 30 * day : hours * hour)
        : expectToEnd(loop, endsAfter * hour),
    timeoutMs,
  );
}
