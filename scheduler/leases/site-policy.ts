/**
 * How a site runs its leases. Everything that costs time is a figure here, measured on the site that it is for.
 *
 * A site's own policy (site-state.ts) uses one value of each option. The others are branches of the same algorithm, which
 * the comparison with Haizea needs (scheduler/simulation/configurations.ts); they are not separate code.
 */
export interface Policy {
  /**
   * Which waiting work may overtake: `none`: no work; `aggressive`: work that does not delay the first in the queue;
   * `conservative`: work that delays nothing in the queue.
   */
  backfilling: 'none' | 'aggressive' | 'conservative';
  /** Suspend best-effort work that a reservation preempts; without, it is stopped and starts anew. */
  suspension: boolean;
  /** Memory written and read per second; a host suspends or resumes one VM at a time. */
  suspendMiBPerS: number;
  /** What moves when suspended work resumes on another host: its memory, or its memory and disk. `none`: it never moves. */
  migration: 'none' | 'memory' | 'memoryAndDisk';
  /** Between two hosts. */
  networkMiBPerS: number;
  /** Best-effort work takes this much longer in a VM: 0.1 is 10 %. */
  runtimeOverhead: number;
  /** From the start of a VM to the start of its work. */
  bootS: number;
  /** A reservation's hosts are vacated (and its image has arrived) this much before its start. */
  marginS: number;
}
