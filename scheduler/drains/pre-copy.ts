import { allowedDowntimeMs, type ConvergencePolicy } from '../../model/migration.ts';

/** What a pre-copy is expected to be: rounds of memory until what is left fits into the allowed downtime. */
export interface PreCopyEstimate {
  converges: boolean;
  seconds: number;
  downtimeS: number;
  rounds: number;
  sentMiB: number;
}

export interface PreCopyInput {
  /** What the first round carries: the memory that holds something. */
  memoryMiB: number;
  /** Distinct memory that the guest writes in a second. */
  dirtyMiBPerS: number;
  bandwidthMiBPerS: number;
  policy: ConvergencePolicy;
}

/** QEMU's auto-converge: a fifth at first, a tenth more with each further round that gains too little. */
const autoConverge = { first: 0.2, step: 0.1, last: 0.99 } as const;
/** Bounds the loop; a round that carries nothing ends it long before. */
const maxRounds = 200;

/**
 * Each round carries what was written during the one before it. Where a round gains less than half, the hypervisor slows
 * the guest down. Clark et al., Live Migration of Virtual Machines (NSDI 2005), section 3.2.
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
