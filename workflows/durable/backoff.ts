/** How long to wait between attempts, in ms. */
export interface BackoffLimits {
  initialMs: number;
  maxMs: number;
}

/** Of the time that has passed since the first attempt; what is over by then is seen late by no more than this share. */
const elapsedShare = 0.05;

/**
 * Waits that double up to a maximum, and from then on are a share of the time that has passed where that is more. The number
 * of attempts grows with the logarithm of the time, so that a wait of months makes a short history: without a bound on it, a
 * history reaches the limit at which Temporal ends its workflow.
 */
export class Backoff {
  readonly #maxMs: number;
  readonly #sinceMs = Date.now();
  #nextMs: number;

  constructor({ initialMs, maxMs }: BackoffLimits) {
    this.#nextMs = initialMs;
    this.#maxMs = maxMs;
  }

  /** @returns the next wait, in ms */
  next(): number {
    const ms = this.#nextMs;
    this.#nextMs = Math.min(ms * 2, this.#maxMs);
    return ms < this.#maxMs ? ms : Math.max(ms, Math.round((Date.now() - this.#sinceMs) * elapsedShare));
  }
}
