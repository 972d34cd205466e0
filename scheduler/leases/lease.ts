import { z } from 'zod';

/**
 * What a client asks for. `durationS` is the time that the work inside gets: whatever it costs to bring images,
 * boot, suspend, resume or migrate is planned around it and never taken from it.
 *
 * - `reservation`: starts at `startAtS` exactly, for its whole duration, or is refused at once.
 * - `immediate`: a reservation for the earliest moment at which its VMs can be there at all, refused when they can't.
 * - `bestEffort`: queued; backfilled into gaps; suspended for reservations if it may be.
 */
export interface Lease {
  id: string;
  kind: 'reservation' | 'bestEffort' | 'immediate';
  submittedAtS: number;
  /** Of a reservation. */
  startAtS?: number | undefined;
  durationS: number;
  /** VMs: all of them or none. */
  nodes: number;
  /** Of each VM. */
  vcpus: number;
  memoryMiB: number;
  diskMiB?: number | undefined;
  image: string;
  imageMiB: number;
  /** Higher goes first in the queue. Default 0. */
  priority?: number | undefined;
  /** Whether best-effort work may be suspended (or, without suspension, killed) for a reservation. Default true. */
  preemptible?: boolean | undefined;
  /** Best effort: refuse it unless it surely ends by then; it gets a fixed start that makes it so. */
  deadlineAtS?: number | undefined;
  /** From the start of its VMs to the start of its work. Default: the policy's. */
  bootS?: number | undefined;
}

export interface HostSpec {
  id: string;
  vcpus: number;
  memoryMiB: number;
  diskMiB?: number | undefined;
}

const limits = { hosts: 100_000, leases: 1_000_000, nodes: 100_000, seconds: 1e10, amount: 1e9 } as const;
const seconds = z.number().min(0).max(limits.seconds);
const positive = z.number().positive().max(limits.amount);

export const TraceLease = z
  .object({
    id: z.union([z.string().min(1).max(128), z.number()]).transform(String),
    kind: z.enum(['reservation', 'bestEffort', 'immediate']),
    submittedAtS: seconds,
    startAtS: seconds.optional(),
    durationS: positive,
    /** What the work really takes; never told to the scheduler before it ends. */
    actualDurationS: positive.optional(),
    nodes: z.int().min(1).max(limits.nodes),
    vcpus: positive,
    memoryMiB: positive,
    diskMiB: z.number().min(0).max(limits.amount).optional(),
    image: z.string().max(256).default(''),
    imageMiB: z.number().min(0).max(limits.amount).default(0),
    priority: z.int().min(-1000).max(1000).optional(),
    preemptible: z.boolean().optional(),
    deadlineAtS: seconds.optional(),
    bootS: seconds.optional(),
  })
  .refine((lease) => lease.kind !== 'reservation' || lease.startAtS !== undefined, {
    path: ['startAtS'],
    error: 'expected a start for a reservation',
  })
  .refine((lease) => lease.startAtS === undefined || lease.kind === 'reservation', {
    path: ['startAtS'],
    error: 'expected a start for a reservation only',
  });
export type TraceLease = z.infer<typeof TraceLease>;

export const Trace = z.object({
  name: z.string().max(256),
  hosts: z.object({
    count: z.int().min(1).max(limits.hosts),
    vcpus: positive,
    memoryMiB: positive,
    diskMiB: positive.optional(),
  }),
  leases: z
    .array(TraceLease)
    .max(limits.leases)
    .refine((leases) => new Set(leases.map((lease) => lease.id)).size === leases.length, { error: 'expected each id once' }),
});
export type Trace = z.infer<typeof Trace>;

export function hostsOf(trace: Trace): HostSpec[] {
  const { count, ...size } = trace.hosts;
  return Array.from({ length: count }, (_, i) => ({ id: `h${i}`, ...size }));
}

/** How much of each resource a VM takes or a host has. Whole numbers, so that adding and removing is exact. */
export interface Shape {
  cpuMilli: number;
  memoryMiB: number;
  diskMiB: number;
}

export function vmShape(lease: Lease): Shape {
  return {
    cpuMilli: Math.ceil(lease.vcpus * 1000),
    memoryMiB: Math.ceil(lease.memoryMiB),
    diskMiB: Math.ceil(lease.diskMiB ?? 0),
  };
}

/** A host that does not say how large its disk is is taken to have enough of it. */
export function hostShape(host: HostSpec): Shape {
  return {
    cpuMilli: Math.floor(host.vcpus * 1000),
    memoryMiB: Math.floor(host.memoryMiB),
    diskMiB: Math.floor(host.diskMiB ?? Number.MAX_SAFE_INTEGER),
  };
}

/** How many of a shape there is room for beside what is taken; below 0 where too much is. */
export function fitCount(capacity: Shape, taken: Shape, shape: Shape): number {
  const sizes = (['cpuMilli', 'memoryMiB', 'diskMiB'] as const).filter((size) => shape[size] > 0);
  return Math.min(...sizes.map((size) => Math.floor((capacity[size] - taken[size]) / shape[size])));
}
