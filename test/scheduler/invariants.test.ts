import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { audit } from '../../scheduler/audit.ts';
import { simulate } from '../../scheduler/simulator.ts';
import { workload } from './workloads.ts';

/** How many random workloads; BERTH_PROPERTY_RUNS asks for more. The seed is printed with every failure. */
const numRuns = Number(process.env.BERTH_PROPERTY_RUNS ?? 1500);

describe('every schedule of a random workload', () => {
  it('keeps all guarantees: capacity, gangs, promises, images, one operation at a time, no work lost, nobody left behind', () => {
    fc.assert(
      fc.property(workload, ({ trace, policy }) => {
        expect(audit(trace, simulate(trace, policy))).toEqual([]);
      }),
      { numRuns },
    );
  }, 120_000);
});
