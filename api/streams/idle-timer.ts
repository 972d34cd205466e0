/** Calls back once when nothing has touched it for so long. */
export class IdleTimer {
  readonly #limitMs: number;
  #timer: NodeJS.Timeout | null = null;

  /** @param limitMs 0: never */
  constructor(limitMs: number) {
    this.#limitMs = limitMs;
  }

  start(onIdle: () => void): void {
    if (this.#limitMs > 0) this.#timer = setTimeout(onIdle, this.#limitMs);
  }

  touch(): void {
    this.#timer?.refresh();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** For the one whose connection is ended. */
  get reason(): string {
    return `nothing came from either end for ${this.#limitMs / 1000} s`;
  }
}
