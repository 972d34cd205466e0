/** What a process has at one moment of a soak. */
export interface Sample {
  run: number;
  heapMiB: number;
  rssMiB: number;
  descriptors: number;
}

/** What the heap may grow by from the second quarter of a soak to its last: garbage that is due, not a leak per life. */
const heapGrowth = 1.1;
/** The same of all memory, of which the allocators return a part late: what is outside the heap, such as buffers, is in it. */
const rssGrowth = 1.5;
const descriptorGrowth = 5;

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

/** What has grown beyond its bound: the last quarter against the second, as caches fill in the first. */
export function grown(measured: readonly Sample[]): (keyof Sample)[] {
  const quarter = Math.floor(measured.length / 4);
  if (quarter === 0) return [];
  const of = (from: number, what: keyof Sample): number => median(measured.slice(from, from + quarter).map((one) => one[what]));
  const last = measured.length - quarter;
  const bounds = [
    ['heapMiB', of(quarter, 'heapMiB') * heapGrowth],
    ['rssMiB', of(quarter, 'rssMiB') * rssGrowth],
    ['descriptors', of(quarter, 'descriptors') + descriptorGrowth],
  ] as const;
  return bounds.filter(([what, most]) => of(last, what) > most).map(([what]) => what);
}
