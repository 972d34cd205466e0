import { BerthError } from '../../model/errors.ts';

/** What one process follows at a time, logs and events, over all owners. */
const maxFollowers = 2000;

/** How much one owner may follow at a time, and all together: each follower is a connection, and is polled for. */
export class FollowerShares {
  readonly #perOwner: number;
  readonly #active = new Map<string, number>();
  #all = 0;

  constructor(perOwner: number) {
    this.#perOwner = perOwner;
  }

  /** Throws rate-limited and unavailable. @returns what ends it */
  enter(owner: string): () => void {
    const own = this.#active.get(owner) ?? 0;
    if (own >= this.#perOwner)
      throw new BerthError(
        'rate-limited',
        `This owner reads ${own} logs, or events, at the same time, of at most ${this.#perOwner}; end some`,
      );
    if (this.#all >= maxFollowers)
      throw new BerthError('unavailable', 'Too many logs and events are being followed; try again soon');
    this.#all += 1;
    this.#active.set(owner, own + 1);
    return () => {
      this.#all -= 1;
      const left = (this.#active.get(owner) ?? 1) - 1;
      if (left === 0) this.#active.delete(owner);
      else this.#active.set(owner, left);
    };
  }
}
