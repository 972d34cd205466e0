import fc from 'fast-check';
import { configurations, type SimulationPolicy } from '../../scheduler/simulation/configurations.ts';
import { generateTrace } from '../../scheduler/simulation/generate-trace.ts';
import type { Trace, TraceLease } from '../../scheduler/simulation/trace.ts';

/** Random workloads for properties: small sites under heavy and mixed load, where many conflicts occur. */

const policy: fc.Arbitrary<SimulationPolicy> = fc
  .record({
    base: fc.constantFrom(...Object.values(configurations)),
    backfilling: fc.constantFrom('none' as const, 'aggressive' as const, 'conservative' as const),
    bootS: fc.constantFrom(0, 0, 7),
    marginS: fc.constantFrom(0, 0, 5),
    migration: fc.constantFrom('none' as const, 'memory' as const, 'memoryAndDisk' as const),
  })
  .map(({ base, ...changes }) => ({ ...base, ...changes }));

const lease = fc
  .record({
    kind: fc.constantFrom(
      'reservation' as const,
      'bestEffort' as const,
      'bestEffort' as const,
      'bestEffort' as const,
      'immediate' as const,
    ),
    submittedAtS: fc.integer({ min: 0, max: 3000 }),
    aheadS: fc.integer({ min: 0, max: 2500 }),
    durationS: fc.integer({ min: 1, max: 900 }),
    endsEarly: fc.option(fc.integer({ min: 1, max: 900 }), { nil: undefined }),
    nodes: fc.constantFrom(1, 1, 1, 2, 3, 5, 8),
    vcpus: fc.constantFrom(0.5, 1, 1, 2),
    memoryMiB: fc.constantFrom(128, 256, 512, 512, 1024),
    image: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    priority: fc.constantFrom(undefined, undefined, 1),
    preemptible: fc.constantFrom(undefined, undefined, undefined, false),
    deadlineInS: fc.constantFrom(undefined, undefined, undefined, undefined, 2000),
  })
  .map(({ aheadS, deadlineInS, endsEarly, ...rest }) => {
    const made: Omit<TraceLease, 'id'> = { ...rest, imageMiB: 300 + 100 * (rest.image.charCodeAt(0) - 97) };
    if (endsEarly !== undefined) made.actualDurationS = endsEarly;
    if (rest.kind === 'reservation') made.startAtS = rest.submittedAtS + aheadS;
    if (rest.kind === 'bestEffort' && deadlineInS !== undefined) made.deadlineAtS = rest.submittedAtS + deadlineInS;
    return made;
  });

export const workload: fc.Arbitrary<{ trace: Trace; policy: SimulationPolicy }> = fc.record({
  policy,
  trace: fc
    .record({
      count: fc.integer({ min: 1, max: 5 }),
      leases: fc.array(lease, { minLength: 1, maxLength: 40 }),
    })
    .map(({ count, leases }) => ({
      name: 'random',
      hosts: { count, vcpus: 2, memoryMiB: 1024 },
      leases: leases.map((each, i) => ({ id: String(i), ...each })),
    })),
});

/** Gangs of up to a quarter of the hosts, a tenth of them reservations, under full load, with suspension: 2,500 leases. */
export const growingSite: fc.Arbitrary<{ trace: Trace; policy: SimulationPolicy }> = fc
  .record({
    hosts: fc.constantFrom(8, 12, 20, 30, 100),
    seed: fc.nat(),
    marginS: fc.constantFrom(0, 0, 5),
    suspendMiBPerS: fc.constantFrom(16, 32, 64),
  })
  .map(({ hosts, seed, ...changes }) => ({
    trace: generateTrace(`scale_par_n${hosts}_l2500`, seed)!,
    policy: { ...configurations['predeploy-susp']!, ...changes },
  }));
