export interface TortureOptions {
  runs: number;
  seed: number;
  /** Only these cases; null: all. */
  cases: string[] | null;
  /** How many sites take runs side by side, where a torture can do that. */
  lanes: number;
}
