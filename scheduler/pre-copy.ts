import { allowedDowntimeMs, type ConvergencePolicy } from '../model/migration.ts';

/** What a pre-copy is expected to be: rounds of memory until what is left fits into the allowed downtime. */
export interface PreCopy {
  converges: boolean;
  seconds: number;
  downtimeS: number;
  rounds: number;
  sentMiB: number;
}

export interface PreCopyOrder {
  /** What the first round carries: the memory that holds something. */
  memoryMiB: number;
  /** Distinct memory that the guest writes in a second. */
  dirtyMiBPerS: number;
  bandwidthMiBPerS: number;
  policy: ConvergencePolicy;
}

/** QEMU's auto-converge: a fifth at first, a tenth more with each further round that gains too little. */
const throttle = { first: 0.2, step: 0.1, last: 0.99 } as const;
/** Bounds the loop; a round that carries nothing ends it long before. */
const maxRounds = 200;

/**
 * Each round carries what was written during the one before it. Where a round gains less than half, the hypervisor slows
 * the guest down. Clark et al., Live Migration of Virtual Machines (NSDI 2005), section 3.2.
 */
export function simulatePreCopy({ memoryMiB, dirtyMiBPerS, bandwidthMiBPerS, policy }: PreCopyOrder): PreCopy {
  const course: PreCopy = { converges: false, seconds: 0, downtimeS: 0, rounds: 0, sentMiB: 0 };
  let left = memoryMiB;
  let slowed = 0;
  while (course.rounds < maxRounds) {
    const roundS = left / bandwidthMiBPerS;
    if (course.rounds > 0 && roundS * 1000 <= allowedDowntimeMs(policy, course.seconds * 1000))
      return { ...course, converges: true, downtimeS: roundS, sentMiB: course.sentMiB + left };
    course.rounds += 1;
    course.sentMiB += left;
    course.seconds += roundS;
    if (course.seconds * 1000 >= policy.deadlineMs) return { ...course, seconds: policy.deadlineMs / 1000 };
    const written = Math.min(memoryMiB, dirtyMiBPerS * (1 - slowed) * roundS);
    if (written > left / 2) slowed = slowed === 0 ? throttle.first : Math.min(throttle.last, slowed + throttle.step);
    left = written;
  }
  return course;
}
