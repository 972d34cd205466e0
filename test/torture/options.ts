export interface TortureOptions {
  runs: number;
  seed: number;
  /** Only these cases; null: all. */
  cases: string[] | null;
  /** The number of sites that execute runs side by side, where a torture supports that. */
  lanes: number;
}
