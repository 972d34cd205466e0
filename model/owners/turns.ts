/** How many acts at a time, and how many of them for one owner. */
export interface TurnLimits {
  total: number;
  perOwner: number;
}

interface Waiting {
  start: () => void;
}

/** Admits what owners want done in turns: one for whom much waits delays another by one act at most. */
export class Turns {
  readonly #limits: TurnLimits;
  readonly #working = new Map<string, number>();
  /** In the order of the owners' turns. */
  readonly #waiting = new Map<string, Waiting[]>();
  #total = 0;

  constructor(limits: TurnLimits) {
    this.#limits = limits;
  }

  /** Runs an act when it is its owner's turn. Throws the signal's reason when it is aborted before. */
  async run<T>(owner: string, signal: AbortSignal, act: () => Promise<T>): Promise<T> {
    await this.#admission(owner, signal);
    try {
      return await act();
    } finally {
      this.#total -= 1;
      this.#change(owner, -1);
      this.#admitNext();
    }
  }

  async #admission(owner: string, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const queue = this.#waiting.get(owner) ?? [];
    this.#waiting.set(owner, queue);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const mine: Waiting = { start: resolve };
    queue.push(mine);
    const leave = (): void => {
      queue.splice(queue.indexOf(mine), 1);
      reject(signal.reason);
    };
    signal.addEventListener('abort', leave, { once: true });
    this.#admitNext();
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  #admitNext(): void {
    for (const [owner, queue] of this.#waiting) {
      if (this.#total >= this.#limits.total) return;
      if ((this.#working.get(owner) ?? 0) >= this.#limits.perOwner) continue;
      const next = queue.shift();
      // Its next turn comes after those of all others.
      this.#waiting.delete(owner);
      if (next === undefined) continue;
      if (queue.length > 0) this.#waiting.set(owner, queue);
      this.#total += 1;
      this.#change(owner, 1);
      next.start();
    }
  }

  #change(owner: string, by: number): void {
    const working = (this.#working.get(owner) ?? 0) + by;
    if (working === 0) this.#working.delete(owner);
    else this.#working.set(owner, working);
  }
}
