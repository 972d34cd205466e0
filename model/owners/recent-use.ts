/** After this long what was used counts half. */
const halfLifeMs = 1_000;
/** What is left of a use that counts no more. */
const forgottenMs = 1;

interface Use {
  ms: number;
  atMs: number;
}

const decayed = ({ ms, atMs }: Use, nowMs: number): number => ms * 0.5 ** (Math.max(0, nowMs - atMs) / halfLifeMs);

/** What owners have used of a process in the last seconds, in milliseconds of its work on their requests. */
export class RecentUse {
  /** The one that was added to the longest ago comes first. */
  readonly #uses = new Map<string, Use>();
  #total: Use = { ms: 0, atMs: 0 };

  add(owner: string, ms: number, nowMs: number): void {
    const before = this.#uses.get(owner);
    this.#uses.delete(owner);
    this.#uses.set(owner, { ms: ms + (before ? decayed(before, nowMs) : 0), atMs: nowMs });
    this.#total = { ms: ms + decayed(this.#total, nowMs), atMs: nowMs };
    this.#forget(nowMs);
  }

  /** Whether it has used more than each would of equal shares; never, where there is no other. */
  isAboveShare(owner: string, nowMs: number): boolean {
    this.#forget(nowMs);
    const use = this.#uses.get(owner);
    return use !== undefined && this.#uses.size > 1 && decayed(use, nowMs) > decayed(this.#total, nowMs) / this.#uses.size;
  }

  #forget(nowMs: number): void {
    for (const [owner, use] of this.#uses) {
      if (decayed(use, nowMs) >= forgottenMs) return;
      this.#uses.delete(owner);
    }
  }
}
