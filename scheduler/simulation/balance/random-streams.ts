import { fractionOf, nextState } from '../mulberry32.ts';

/** One generator mulberry32 for each of many VMs, so that what one does does not depend on the others. */
export class RandomStreams {
  readonly #states: Uint32Array;

  constructor(count: number, seed: number) {
    this.#states = new Uint32Array(count);
    for (let i = 0; i < count; i++) this.#states[i] = Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(i + 1, 0x85ebca6b);
  }

  /** From 0 to below 1. */
  next(stream: number): number {
    const state = nextState(this.#states[stream]!);
    this.#states[stream] = state;
    return fractionOf(state);
  }

  normal(stream: number): number {
    return Math.sqrt(-2 * Math.log(1 - this.next(stream))) * Math.cos(2 * Math.PI * this.next(stream));
  }

  logNormal(stream: number, median: number, sigma: number): number {
    return median * Math.exp(sigma * this.normal(stream));
  }
}
