import type { Shape } from '../lease.ts';
import { HostProfile } from './host-profile.ts';

/** One VM on a host for an interval. */
export interface Allocation {
  host: number;
  from: number;
  to: number;
}

/**
 * How firm an allocation is. `promise`: reservations and work that may not be preempted. `running`: preemptible work that
 * runs, until its expected end. `booking`: capacity reserved for waiting work.
 */
export type Layer = 'promise' | 'running' | 'booking';

/**
 * The allocations of all hosts over time, in three profiles per host, each of which includes the one before: promises; with
 * running work; with bookings. What work may preempt follows from the profile that is queried for it.
 */
export class Timeline {
  readonly promised: HostProfile[];
  readonly planned: HostProfile[];
  readonly booked: HostProfile[];

  constructor(capacities: readonly Shape[]) {
    this.promised = capacities.map((capacity) => new HostProfile(capacity));
    this.planned = capacities.map((capacity) => new HostProfile(capacity));
    this.booked = capacities.map((capacity) => new HostProfile(capacity));
  }

  add(layer: Layer, allocations: readonly Allocation[], shape: Shape, sign: 1 | -1): void {
    for (const { host, from, to } of allocations) {
      if (layer === 'promise') this.promised[host]!.add(from, to, shape, sign);
      if (layer !== 'booking') this.planned[host]!.add(from, to, shape, sign);
      this.booked[host]!.add(from, to, shape, sign);
    }
  }

  /** As `add` of work on one host that is there from one time on. */
  addFrom(layer: 'promise' | 'running', host: number, from: number, taken: readonly { until: number; shape: Shape }[]): void {
    if (layer === 'promise') this.promised[host]!.addFrom(from, taken);
    this.planned[host]!.addFrom(from, taken);
    this.booked[host]!.addFrom(from, taken);
  }

  forgetBefore(time: number): void {
    for (const profiles of [this.promised, this.planned, this.booked]) {
      for (const profile of profiles) profile.forgetBefore(time);
    }
  }
}

/** `count` VMs on one host. */
interface HostCount {
  host: number;
  count: number;
}

interface GangFit {
  from: number;
  counts: HostCount[];
}

/**
 * The earliest start from `notBefore` on at which `nodes` VMs fit on the given hosts at once for `duration`, and how
 * many on each. One sweep over all hosts' breakpoints in the order of time: a host's count changes where a gap
 * begins (upwards) or where the window starts to touch the end of one (downwards).
 */
export function earliestGangFit(
  profiles: readonly HostProfile[],
  hosts: readonly number[],
  nodes: number,
  shape: Shape,
  duration: number,
  notBefore: number,
): GangFit | null {
  let sum = 0;
  const initialCounts = hosts.map((host) => profiles[host]!.fits(notBefore, notBefore + duration, shape, nodes));
  for (const count of initialCounts) sum += count;
  if (sum >= nodes) return { from: notBefore, counts: distribute(hosts, initialCounts, nodes) };

  const changes: { at: number; after: number; delta: number }[] = [];
  for (const [i, host] of hosts.entries()) {
    countChanges(profiles[host]!, nodes, shape, duration, notBefore, initialCounts[i]!, changes);
  }
  // A rise counts at its moment, a fall just after it: a window that ends exactly where a gap ends still fits.
  changes.sort((a, b) => a.at - b.at || a.after - b.after);
  for (let i = 0; i < changes.length; i++) {
    const change = changes[i]!;
    sum += change.delta;
    const next = changes[i + 1];
    const isLastChangeAtMoment = next === undefined || next.at !== change.at || (change.after === 0 && next.after === 1);
    if (isLastChangeAtMoment && change.after === 0 && sum >= nodes) {
      const counts = hosts.map((host) => profiles[host]!.fits(change.at, change.at + duration, shape, nodes));
      return { from: change.at, counts: distribute(hosts, counts, nodes) };
    }
  }
  return null;
}

function countChanges(
  profile: HostProfile,
  nodes: number,
  shape: Shape,
  duration: number,
  notBefore: number,
  countNow: number,
  changes: { at: number; after: number; delta: number }[],
): void {
  const steps = [...profile.steps(notBefore, shape, nodes)];
  const moments = new Set<number>();
  for (const [i, step] of steps.entries()) {
    if (i === 0) continue;
    const before = steps[i - 1]!.fits;
    if (step.fits > before) moments.add(step.at);
    if (step.fits < before && step.at - duration >= notBefore) moments.add(step.at - duration);
  }
  let current = countNow;
  for (const at of [...moments].sort((a, b) => a - b)) {
    const here = minFits(steps, at, at + duration, false);
    const after = minFits(steps, at, at + duration, true);
    if (here !== current) changes.push({ at, after: 0, delta: here - current });
    if (after !== here) changes.push({ at, after: 1, delta: after - here });
    current = after;
  }
}

/** The least count over [from, to), or over (from, to] for the window just after. */
function minFits(steps: readonly { at: number; fits: number }[], from: number, to: number, closed: boolean): number {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (steps[middle]!.at <= from) low = middle;
    else high = middle - 1;
  }
  let min = steps[low]!.fits;
  for (let i = low + 1; i < steps.length && (steps[i]!.at < to || (closed && steps[i]!.at === to)); i++) {
    min = Math.min(min, steps[i]!.fits);
  }
  return min;
}

function distribute(hosts: readonly number[], counts: readonly number[], nodes: number): HostCount[] {
  const parts: HostCount[] = [];
  let left = nodes;
  for (const [i, host] of hosts.entries()) {
    const count = Math.min(left, counts[i]!);
    if (count > 0) parts.push({ host, count });
    left -= count;
    if (left === 0) break;
  }
  return parts;
}
