/** What reading one disk may cost: each number is a limit on all of it together. */
export interface ReadBudget {
  /** Blocks of folders, extent trees and inode tables that are read. */
  blocks: number;
  /** Names in folders and entries of extent trees that are looked at. */
  entries: number;
  /** Regular files that are returned. */
  files: number;
  /** Bytes of the paths and the places of all files that are returned. */
  bytes: number;
  seconds: number;
}

/** 64 GiB in files of 4 KiB are 16 million entries: a disk with so many is read for as long as the seconds last. */
export const usualReadBudget: Omit<ReadBudget, 'files'> = {
  blocks: 4_000_000,
  entries: 20_000_000,
  bytes: 32 * 2 ** 20,
  seconds: 60,
};

/** Nothing more is read of this disk. */
export class BudgetSpent extends Error {}

/** Counts what is spent; throws BudgetSpent, also each time after that. */
export class Spending {
  readonly #left: ReadBudget;
  readonly #budget: ReadBudget;
  readonly #endMs: number;
  #untilClock = clockEvery;

  constructor(budget: ReadBudget) {
    this.#budget = budget;
    this.#left = { ...budget };
    this.#endMs = performance.now() + budget.seconds * 1000;
  }

  spend(what: 'blocks' | 'entries' | 'bytes', amount = 1): void {
    this.#left[what] -= amount;
    if (this.#left[what] < 0) throw new BudgetSpent(`reading it took more than ${this.#budget[what]} ${what}`);
    this.#untilClock -= 1;
    if (this.#untilClock > 0) return;
    this.#untilClock = clockEvery;
    if (performance.now() > this.#endMs) {
      this.#left.blocks = -1;
      throw new BudgetSpent(`reading it took more than ${this.#budget.seconds} s`);
    }
  }

  /** Whether one more file may be returned. */
  takeFile(): boolean {
    this.#left.files -= 1;
    return this.#left.files >= 0;
  }
}

/** Steps between two looks at the clock: a block takes at most some microseconds from the page cache, and milliseconds from a disk. */
const clockEvery = 64;
