import { allowedDowntimeMs, type ConvergencePolicy } from '../../model/migration.ts';

/** The expected course of a pre-copy: rounds of memory until the remainder fits into the allowed downtime. */
export interface PreCopyEstimate {
  converges: boolean;
  seconds: number;
  downtimeS: number;
  rounds: number;
  sentMiB: number;
}

interface PreCopyInput {
  /** What the first round sends: the memory in use. */
  memoryMiB: number;
  /** Distinct memory that the guest writes in a second. */
  dirtyMiBPerS: number;
  bandwidthMiBPerS: number;
  policy: ConvergencePolicy;
}

/** QEMU's auto-converge: throttles the guest by 20 %, then by 10 % more after each further round that gains too little. */
const autoConverge = { first: 0.2, step: 0.1, last: 0.99 } as const;
/** Bounds the loop; usually the deadline or the downtime ends it much earlier. */
const maxRounds = 200;

/**
 * Each round sends what was written during the one before it. After a round that gains less than half, the hypervisor
 * throttles the guest. Clark et al., Live Migration of Virtual Machines (NSDI 2005), section 3.2.
 */
export function estimatePreCopy({ memoryMiB, dirtyMiBPerS, bandwidthMiBPerS, policy }: PreCopyInput): PreCopyEstimate {
  const estimate: PreCopyEstimate = { converges: false, seconds: 0, downtimeS: 0, rounds: 0, sentMiB: 0 };
  let remainingMiB = memoryMiB;
  let throttle = 0;
  while (estimate.rounds < maxRounds) {
    const roundS = remainingMiB / bandwidthMiBPerS;
    if (estimate.rounds > 0 && roundS * 1000 <= allowedDowntimeMs(policy, estimate.seconds * 1000))
      return { ...estimate, converges: true, downtimeS: roundS, sentMiB: estimate.sentMiB + remainingMiB };
    estimate.rounds += 1;
    estimate.sentMiB += remainingMiB;
    estimate.seconds += roundS;
    if (estimate.seconds * 1000 >= policy.deadlineMs) return { ...estimate, seconds: policy.deadlineMs / 1000 };
    const written = Math.min(memoryMiB, dirtyMiBPerS * (1 - throttle) * roundS);
    if (written > remainingMiB / 2)
      throttle = throttle === 0 ? autoConverge.first : Math.min(autoConverge.last, throttle + autoConverge.step);
    remainingMiB = written;
  }
  return estimate;
}
