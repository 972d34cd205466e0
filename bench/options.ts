export interface BenchOptions {
  /** Measured repetitions of each side; each benchmark defines its own minimum. */
  runs: number | null;
  /** The selected modes of a benchmark that has several; null: all. */
  modes: string[] | null;
}
