import type { Shape } from '../lease.ts';
import type { PlanState } from '../plan-state.ts';

/** Capacity for one more VM on a host now: the time until which it lasts, with and without the bookings of waiting work. */
export interface Slot {
  booked: number;
  planned: number;
}

interface ShapeSlots {
  shape: Shape;
  slots: Slot[][];
  total: number;
  availableUntil: number | null;
}

const isEqual = (a: Shape, b: Shape): boolean =>
  a.cpuMilli === b.cpuMilli && a.memoryMiB === b.memoryMiB && a.diskMiB === b.diskMiB;

/** Of a full host, as most are on a site with a queue. */
const none: Slot[] = [];

/** The free slots at one moment, by host and VM size; cached until `refreshHost`. */
export class FreeSlots {
  private readonly state: PlanState;
  private readonly now: number;
  private readonly byShape = new Map<string, ShapeSlots>();
  /** What was asked for last: the next question is often of the same size. */
  private last: ShapeSlots | null = null;

  constructor(state: PlanState, now: number) {
    this.state = state;
    this.now = now;
  }

  /** Slot k is the capacity for one more VM when k others of the size have been added. */
  onHost(host: number, shape: Shape): readonly Slot[] {
    return this.entryFor(shape).slots[host]!;
  }

  /** Of each host; for a loop, until the next `refreshHost`. */
  byHost(shape: Shape): readonly (readonly Slot[])[] {
    return this.entryFor(shape).slots;
  }

  /** Hosts with at least one slot. */
  hostsWithSlots(shape: Shape): number[] {
    const { slots } = this.entryFor(shape);
    return slots.flatMap((list, host) => (list.length > 0 ? [host] : []));
  }

  total(shape: Shape): number {
    return this.entryFor(shape).total;
  }

  isEmpty(shape: Shape): boolean {
    return this.entryFor(shape).total === 0;
  }

  /** The time until which one more VM fits in the sum over all hosts. */
  availableUntil(shape: Shape): number {
    const entry = this.entryFor(shape);
    entry.availableUntil ??= this.computeAvailableUntil(shape);
    return entry.availableUntil;
  }

  refreshHost(host: number): void {
    for (const entry of this.byShape.values()) {
      entry.total -= entry.slots[host]!.length;
      entry.slots[host] = this.computeSlots(host, entry.shape);
      entry.total += entry.slots[host]!.length;
      entry.availableUntil = null;
    }
  }

  invalidate(): void {
    this.byShape.clear();
    this.last = null;
  }

  private entryFor(shape: Shape): ShapeSlots {
    if (this.last !== null && isEqual(this.last.shape, shape)) return this.last;
    const key = `${shape.cpuMilli}/${shape.memoryMiB}/${shape.diskMiB}`;
    let entry = this.byShape.get(key);
    if (entry === undefined) {
      const slots = this.state.hosts.map((_, host) => this.computeSlots(host, shape));
      entry = { shape, slots, total: slots.reduce((sum, list) => sum + list.length, 0), availableUntil: null };
      this.byShape.set(key, entry);
    }
    this.last = entry;
    return entry;
  }

  private computeSlots(host: number, shape: Shape): Slot[] {
    if (!this.state.hosts[host]!.up) return [];
    const { booked, planned } = this.state.timeline;
    let slots = none;
    for (;;) {
      const until = booked[host]!.freeUntil(this.now, shape, slots.length + 1);
      if (until <= this.now) return slots;
      if (slots === none) slots = [];
      slots.push({ booked: until, planned: planned[host]!.freeUntil(this.now, shape, slots.length + 1) });
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
