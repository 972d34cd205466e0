/**
 * What a client requests. `durationS` is the time that the work inside gets: the time to send images, boot, suspend, resume
 * or migrate is planned in addition and never taken from it.
 *
 * - `reservation`: starts at `startAtS` exactly, for its whole duration, or is refused at once.
 * - `immediate`: a reservation for the earliest moment at which its VMs can be ready, refused when they can't.
 * - `bestEffort`: queued; backfilled into gaps; suspended for reservations if it is preemptible.
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
  /** For an ImageDelivery. */
  image?: string | undefined;
  imageMiB?: number | undefined;
  /** Higher goes first in the queue. Default 0. */
  priority?: number | undefined;
  /** Whether best-effort work may be suspended (or, without suspension, killed) for a reservation. Default true. */
  preemptible?: boolean | undefined;
  /** Best effort: it gets a fixed start with which it ends by then, or is refused. */
  deadlineAtS?: number | undefined;
  /** From the start of its VMs to the start of its work. Default: the policy's. */
  bootS?: number | undefined;
  /** Best effort: what it costs on each host that it may use. Default: on every host the same. */
  hostCosts?: ReadonlyMap<string, number> | null | undefined;
  /** Best effort: its VMs run on one host, or each on another. */
  relation?: 'together' | 'apart' | null | undefined;
}

export interface HostSpec {
  id: string;
  vcpus: number;
  memoryMiB: number;
  diskMiB?: number | undefined;
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

/** A host without a disk size is assumed to have enough. */
export function hostShape(host: HostSpec): Shape {
  return {
    cpuMilli: Math.floor(host.vcpus * 1000),
    memoryMiB: Math.floor(host.memoryMiB),
    diskMiB: Math.floor(host.diskMiB ?? Number.MAX_SAFE_INTEGER),
  };
}

/** How many more of a shape fit; below 0 where more is taken than there is. */
export function fitCount(capacity: Shape, taken: Shape, shape: Shape): number {
  let count = Number.POSITIVE_INFINITY;
  if (shape.cpuMilli > 0) count = Math.floor((capacity.cpuMilli - taken.cpuMilli) / shape.cpuMilli);
  if (shape.memoryMiB > 0) count = Math.min(count, Math.floor((capacity.memoryMiB - taken.memoryMiB) / shape.memoryMiB));
  if (shape.diskMiB > 0) count = Math.min(count, Math.floor((capacity.diskMiB - taken.diskMiB) / shape.diskMiB));
  return count;
}
