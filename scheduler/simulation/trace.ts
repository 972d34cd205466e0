import { z } from 'zod';
import type { HostSpec } from '../leases/lease.ts';

/** A recorded or generated workload: the simulator's input. */

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
    /** What the work really takes; the scheduler does not know it before the work ends. */
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
