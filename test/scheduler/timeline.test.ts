import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HostProfile } from '../../scheduler/leases/capacity/host-profile.ts';
import { earliestGangFit } from '../../scheduler/leases/capacity/timeline.ts';

const capacity = { cpuMilli: 4, memoryMiB: 8, diskMiB: 100 };
const claim = fc.record({
  host: fc.integer({ min: 0, max: 2 }),
  from: fc.integer({ min: 0, max: 30 }),
  length: fc.integer({ min: 1, max: 15 }),
  cpu: fc.integer({ min: 0, max: 3 }),
  memory: fc.integer({ min: 0, max: 5 }),
});
type Taken = { host: number; from: number; length: number; cpu: number; memory: number };
const shapeOf = (cpu: number, memory: number) => ({ cpuMilli: cpu, memoryMiB: memory, diskMiB: 1 });

/** The same answers, second by second: slow and simple. */
function fitsAt(claims: readonly Taken[], host: number, at: number, cpu: number, memory: number): number {
  const here = claims.filter((c) => c.host === host && c.from <= at && at < c.from + c.length);
  const cpuLeft = capacity.cpuMilli - here.reduce((sum, c) => sum + c.cpu, 0);
  const memoryLeft = capacity.memoryMiB - here.reduce((sum, c) => sum + c.memory, 0);
  return Math.max(0, Math.min(Math.floor(cpuLeft / cpu), Math.floor(memoryLeft / memory)));
}

function profilesOf(claims: readonly Taken[]): HostProfile[] {
  const profiles = [0, 1, 2].map(() => new HostProfile(capacity));
  for (const c of claims) profiles[c.host]!.add(c.from, c.from + c.length, { ...shapeOf(c.cpu, c.memory), diskMiB: 0 }, 1);
  return profiles;
}

describe('the timeline', () => {
  it('finds the earliest moment at which all VMs fit at once, as trying every second does', () => {
    fc.assert(
      fc.property(
        fc.array(claim, { maxLength: 14 }),
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 1, max: 12 }),
        fc.integer({ min: 0, max: 20 }),
        fc.integer({ min: 1, max: 2 }),
        fc.integer({ min: 1, max: 4 }),
        (claims, nodes, duration, notBefore, cpu, memory) => {
          const shape = shapeOf(cpu, memory);
          const found = earliestGangFit(profilesOf(claims), [0, 1, 2], nodes, shape, duration, notBefore);
          let expected: number | null = null;
          for (let start = notBefore; start <= 100 && expected === null; start++) {
            const sum = [0, 1, 2].reduce((total, host) => {
              const counts = Array.from({ length: duration }, (_, i) => fitsAt(claims, host, start + i, cpu, memory));
              return total + Math.min(...counts);
            }, 0);
            if (sum >= nodes) expected = start;
          }
          expect(found?.from ?? null).toBe(expected);
          if (found !== null) expect(found.counts.reduce((sum, part) => sum + part.count, 0)).toBe(nodes);
        },
      ),
      { numRuns: 1000 },
    );
  });

  it('takes many VMs from one moment on as it takes them one by one', () => {
    const vms = fc.array(fc.record({ length: fc.integer({ min: -2, max: 15 }), cpu: fc.nat(3), memory: fc.nat(5) }), {
      maxLength: 8,
    });
    fc.assert(
      fc.property(fc.array(claim, { maxLength: 8 }), vms, fc.nat(25), (claims, taken, from) => {
        const [together, single] = [profilesOf(claims)[0]!, profilesOf(claims)[0]!];
        together.addFrom(
          from,
          taken.map(({ length, cpu, memory }) => ({ until: from + length, shape: shapeOf(cpu, memory) })),
        );
        for (const { length, cpu, memory } of taken) single.add(from, from + length, shapeOf(cpu, memory), 1);
        for (let at = -1; at <= 50; at++) expect(together.taken(at)).toEqual(single.taken(at));
      }),
      { numRuns: 1000 },
    );
  });

  it('is as if never used after everything that was taken is released', () => {
    fc.assert(
      fc.property(fc.array(claim, { maxLength: 20 }), (claims) => {
        const profiles = profilesOf(claims);
        for (const c of claims) profiles[c.host]!.add(c.from, c.from + c.length, { ...shapeOf(c.cpu, c.memory), diskMiB: 0 }, -1);
        const steps = profiles.map((profile) => [...profile.steps(Number.NEGATIVE_INFINITY, shapeOf(1, 1), 9)]);
        expect(steps.map((list) => list.length)).toEqual([1, 1, 1]);
      }),
    );
  });

  it('answers the same after it discarded the past', () => {
    fc.assert(
      fc.property(fc.array(claim, { maxLength: 20 }), fc.integer({ min: 0, max: 40 }), (claims, now) => {
        const [kept] = profilesOf(claims);
        const [forgetful] = profilesOf(claims);
        forgetful!.forgetBefore(now);
        const shape = shapeOf(1, 1);
        for (let at = now; at < 50; at++) {
          expect(forgetful!.freeUntil(at, shape, 1)).toBe(kept!.freeUntil(at, shape, 1));
          expect(forgetful!.earliest(at, 3, shape, 2)).toBe(kept!.earliest(at, 3, shape, 2));
        }
      }),
    );
  });
});
