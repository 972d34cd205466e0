import { describe, expect, it } from 'vitest';
import { grown, type Sample } from '../torture/flat.ts';

const samples = (of: (n: number) => Partial<Sample>): Sample[] =>
  Array.from({ length: 20 }, (_, n) => ({ run: n, heapMiB: 100, rssMiB: 400, descriptors: 40, ...of(n) }));

describe('a soak', () => {
  it('is flat where nothing grows after its first quarter', () => {
    expect(grown(samples((n) => (n < 5 ? { heapMiB: 50, rssMiB: 100, descriptors: 10 } : {})))).toEqual([]);
    expect(grown(samples((n) => ({ rssMiB: 400 + (n % 2) * 150, descriptors: 40 + (n % 5) })))).toEqual([]);
  });

  it.each([
    ['heapMiB', (n: number) => ({ heapMiB: 100 + 2 * n })],
    ['rssMiB', (n: number) => ({ rssMiB: 400 + 40 * n })],
    ['descriptors', (n: number) => ({ descriptors: 40 + n })],
  ] as const)('is not flat where %s grows', (what, of) => {
    expect(grown(samples(of))).toEqual([what]);
  });
});
