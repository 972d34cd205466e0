export interface BenchOptions {
  /** Measured repetitions of each side; each benchmark has its own least number. */
  runs: number | null;
  /** Of a benchmark that has several: only these; null: all. */
  modes: string[] | null;
}
