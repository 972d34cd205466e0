import type { Shape } from '../lease.ts';
import type { PlanState } from '../plan-state.ts';

/** Room for one more VM on a host, now: until when, with and without what is kept for those who wait. */
export interface Slot {
  booked: number;
  planned: number;
}

/** The room that there is at one moment, by host and VM size; looked up once and kept while the host doesn't change. */
export class FreeSlots {
  private readonly state: PlanState;
  private readonly now: number;
  private readonly byShape = new Map<string, { shape: Shape; lanes: Slot[][]; total: number; lasts: number | null }>();

  constructor(state: PlanState, now: number) {
    this.state = state;
    this.now = now;
  }

  /** Lane k is the room for one VM more, k others of the size being there already. */
  onHost(host: number, shape: Shape): readonly Slot[] {
    return this.entryFor(shape).lanes[host]!;
  }

  /** Hosts with any room. */
  hostsWithSlots(shape: Shape): number[] {
    const { lanes } = this.entryFor(shape);
    return lanes.flatMap((list, host) => (list.length > 0 ? [host] : []));
  }

  total(shape: Shape): number {
    return this.entryFor(shape).total;
  }

  isEmpty(shape: Shape): boolean {
    return this.entryFor(shape).total === 0;
  }

  /** Until when the sum over all hosts has room for one more. */
  availableUntil(shape: Shape): number {
    const entry = this.entryFor(shape);
    entry.lasts ??= this.computeAvailableUntil(shape);
    return entry.lasts;
  }

  refreshHost(host: number): void {
    for (const entry of this.byShape.values()) {
      entry.total -= entry.lanes[host]!.length;
      entry.lanes[host] = this.computeSlots(host, entry.shape);
      entry.total += entry.lanes[host]!.length;
      entry.lasts = null;
    }
  }

  invalidate(): void {
    this.byShape.clear();
  }

  private entryFor(shape: Shape) {
    const key = `${shape.cpuMilli}/${shape.memoryMiB}/${shape.diskMiB}`;
    let entry = this.byShape.get(key);
    if (entry === undefined) {
      const lanes = this.state.hosts.map((_, host) => this.computeSlots(host, shape));
      entry = { shape, lanes, total: lanes.reduce((sum, list) => sum + list.length, 0), lasts: null };
      this.byShape.set(key, entry);
    }
    return entry;
  }

  private computeSlots(host: number, shape: Shape): Slot[] {
    if (!this.state.hosts[host]!.up) return [];
    const { booked, planned } = this.state.timeline;
    const lanes: Slot[] = [];
    for (;;) {
      const until = booked[host]!.freeUntil(this.now, shape, lanes.length + 1);
      if (until <= this.now) return lanes;
      lanes.push({ booked: until, planned: planned[host]!.freeUntil(this.now, shape, lanes.length + 1) });
    }
  }

  private computeAvailableUntil(shape: Shape): number {
    const changes: { at: number; delta: number }[] = [];
    let sum = 0;
    for (const profile of this.state.timeline.booked) {
      let before = 0;
      for (const [i, step] of [...profile.steps(this.now, shape, Number.MAX_SAFE_INTEGER)].entries()) {
        if (i === 0) sum += step.fits;
        else changes.push({ at: step.at, delta: step.fits - before });
        before = step.fits;
      }
    }
    changes.sort((a, b) => a.at - b.at);
    for (const [i, change] of changes.entries()) {
      sum += change.delta;
      if (changes[i + 1]?.at !== change.at && sum <= 0) return change.at;
    }
    return Number.POSITIVE_INFINITY;
  }
}
