/** One figure of a benchmark, against its baseline from the same run. `ratio` is value / baseline. */
export interface Figure {
  name: string;
  value: number;
  unit: string;
  baseline: number | null;
  ratio: number | null;
  [detail: string]: unknown;
}

export function printFigure(
  name: string,
  value: number,
  unit: string,
  baseline: number | null,
  detail: Record<string, unknown> = {},
): void {
  const ratio = baseline === null || baseline === 0 ? null : round(value / baseline);
  const line: Figure = {
    name,
    value: round(value),
    unit,
    baseline: baseline === null ? null : round(baseline),
    ratio,
    ...detail,
  };
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** Writes progress to standard error, so that standard output contains only JSON lines. */
export function logProgress(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** A figure above its limit: the other benchmarks go on, and the status at the end is not 0. */
export function requireAtMost(name: string, value: number, limit: number, unit: string): void {
  if (value <= limit) return;
  logProgress(`${name} is ${round(value)} ${unit}: above its limit of ${limit} ${unit}`);
  process.exitCode = 1;
}

export function median(values: readonly number[]): number {
  if (values.length === 0) throw new Error('BUG: the median of nothing was asked for');
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Of values in ascending order. */
export const percentile = (sorted: readonly number[], share: number): number => sorted[Math.ceil(share * sorted.length) - 1]!;

function round(value: number): number {
  return Number(value.toPrecision(4));
}
