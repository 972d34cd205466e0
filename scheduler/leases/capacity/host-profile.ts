import type { Shape } from '../lease.ts';

/**
 * The capacity of one host in use over time: a step function, stored as breakpoints with the amount in use from each
 * until the next. The cost of a change or a query is linear in the breakpoints of its interval.
 */
export class HostProfile {
  readonly capacity: Shape;
  private times: number[] = [Number.NEGATIVE_INFINITY];
  private cpu: number[] = [0];
  private memory: number[] = [0];
  private disk: number[] = [0];

  constructor(capacity: Shape) {
    this.capacity = capacity;
  }

  /** Takes `count` times the shape over [from, to); a negative count returns it. */
  add(from: number, to: number, shape: Shape, count: number): void {
    if (!(from < to)) return;
    const first = this.split(from);
    const last = this.split(to);
    for (let i = first; i < last; i++) {
      this.cpu[i]! += count * shape.cpuMilli;
      this.memory[i]! += count * shape.memoryMiB;
      this.disk[i]! += count * shape.diskMiB;
    }
    this.mergeWithPrevious(last);
    this.mergeWithPrevious(first);
  }

  /**
   * As `add` of each, from one time on until each one's own: in one pass over the breakpoints, because a full host has a VM
   * for each. @param taken in any order
   */
  addFrom(from: number, taken: readonly { until: number; shape: Shape }[]): void {
    const ends = taken.filter(({ until }) => until > from).sort((a, b) => a.until - b.until);
    if (ends.length === 0) return;
    const last = ends.at(-1)!.until;
    const first = this.split(from);
    const end = this.split(last);
    const [times, cpu, memory, disk] = [this.times, this.cpu, this.memory, this.disk].map((list) => list.slice(first, end)) as [
      number[],
      number[],
      number[],
      number[],
    ];
    const left = { cpuMilli: 0, memoryMiB: 0, diskMiB: 0 };
    for (const { shape } of ends) {
      left.cpuMilli += shape.cpuMilli;
      left.memoryMiB += shape.memoryMiB;
      left.diskMiB += shape.diskMiB;
    }
    const steps: { at: number; cpu: number; memory: number; disk: number }[] = [];
    let old = 0;
    let next = 0;
    let at = from;
    while (at < last) {
      while (old + 1 < times.length && times[old + 1]! <= at) old++;
      while (next < ends.length && ends[next]!.until <= at) {
        const { shape } = ends[next++]!;
        left.cpuMilli -= shape.cpuMilli;
        left.memoryMiB -= shape.memoryMiB;
        left.diskMiB -= shape.diskMiB;
      }
      steps.push({
        at,
        cpu: cpu[old]! + left.cpuMilli,
        memory: memory[old]! + left.memoryMiB,
        disk: disk[old]! + left.diskMiB,
      });
      at = Math.min(ends[next]!.until, times[old + 1] ?? Number.POSITIVE_INFINITY);
    }
    const replace = (list: number[], values: number[]) => list.splice(first, end - first, ...values);
    replace(
      this.times,
      steps.map((step) => step.at),
    );
    replace(
      this.cpu,
      steps.map((step) => step.cpu),
    );
    replace(
      this.memory,
      steps.map((step) => step.memory),
    );
    replace(
      this.disk,
      steps.map((step) => step.disk),
    );
    this.mergeWithPrevious(first + steps.length);
    this.mergeWithPrevious(first);
  }

  /** Drops breakpoints before a time; amounts before it are unknown afterwards. */
  forgetBefore(time: number): void {
    const i = this.indexAt(time);
    if (i < 8) return;
    for (const list of [this.times, this.cpu, this.memory, this.disk]) list.splice(0, i);
    this.times[0] = Number.NEGATIVE_INFINITY;
  }

  /** How many more of the shape fit at every moment of [from, to), at most `atMost`. */
  fits(from: number, to: number, shape: Shape, atMost: number): number {
    let least = atMost;
    for (let i = this.indexAt(from); i < this.times.length && (this.times[i]! < to || this.times[i]! <= from); i++) {
      const here = this.fitCountAt(i, shape);
      if (here < least) least = here;
      if (least <= 0) return 0;
    }
    return least;
  }

  /** The first moment from `from` on at which `count` of the shape don't fit; Infinity: they always fit. */
  freeUntil(from: number, shape: Shape, count: number): number {
    for (let i = this.indexAt(from); i < this.times.length; i++) {
      if (this.fitCountAt(i, shape) < count) return Math.max(from, this.times[i]!);
    }
    return Number.POSITIVE_INFINITY;
  }

  /** The first start from `from` on such that `count` of the shape fit for `duration`; Infinity if none exists. */
  earliest(from: number, duration: number, shape: Shape, count: number): number {
    let start = from;
    for (let i = this.indexAt(from); i < this.times.length; i++) {
      if (this.times[i]! >= start + duration) return start;
      if (this.fitCountAt(i, shape) < count) start = this.times[i + 1] ?? Number.POSITIVE_INFINITY;
    }
    return start;
  }

  /** How many of the shape fit from `from` on, then the breakpoints after it and how many fit from each on. */
  *steps(from: number, shape: Shape, atMost: number): Generator<{ at: number; fits: number }> {
    for (let i = this.indexAt(from); i < this.times.length; i++) {
      yield { at: Math.max(from, this.times[i]!), fits: Math.max(0, Math.min(atMost, this.fitCountAt(i, shape))) };
    }
  }

  taken(at: number): Shape {
    const i = this.indexAt(at);
    return { cpuMilli: this.cpu[i]!, memoryMiB: this.memory[i]!, diskMiB: this.disk[i]! };
  }

  private fitCountAt(i: number, shape: Shape): number {
    let fit = Number.POSITIVE_INFINITY;
    if (shape.cpuMilli > 0) fit = Math.floor((this.capacity.cpuMilli - this.cpu[i]!) / shape.cpuMilli);
    if (shape.memoryMiB > 0) fit = Math.min(fit, Math.floor((this.capacity.memoryMiB - this.memory[i]!) / shape.memoryMiB));
    if (shape.diskMiB > 0) fit = Math.min(fit, Math.floor((this.capacity.diskMiB - this.disk[i]!) / shape.diskMiB));
    return fit;
  }

  /** The segment in force at a time. */
  private indexAt(time: number): number {
    let low = 0;
    let high = this.times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.times[middle]! <= time) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  private split(time: number): number {
    if (time === Number.POSITIVE_INFINITY) return this.times.length;
    const i = this.indexAt(time);
    if (this.times[i] === time) return i;
    insertAt(this.times, i + 1, time);
    insertAt(this.cpu, i + 1, this.cpu[i]!);
    insertAt(this.memory, i + 1, this.memory[i]!);
    insertAt(this.disk, i + 1, this.disk[i]!);
    return i + 1;
  }

  private mergeWithPrevious(i: number): void {
    if (i <= 0 || i >= this.times.length) return;
    if (this.cpu[i] !== this.cpu[i - 1] || this.memory[i] !== this.memory[i - 1] || this.disk[i] !== this.disk[i - 1]) return;
    removeAt(this.times, i);
    removeAt(this.cpu, i);
    removeAt(this.memory, i);
    removeAt(this.disk, i);
  }
}

/** As splice, which makes an array of what it removes: half of the time of a plan's changes. */
function insertAt(list: number[], index: number, value: number): void {
  for (let i = list.length; i > index; i--) list[i] = list[i - 1]!;
  list[index] = value;
}

function removeAt(list: number[], index: number): void {
  for (let i = index + 1; i < list.length; i++) list[i - 1] = list[i]!;
  list.pop();
}
