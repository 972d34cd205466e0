import { afterEach, expect, it, vi } from 'vitest';
import { requireAtMost } from '../../../bench/figures.ts';

const before = process.exitCode;
afterEach(() => {
  process.exitCode = before;
  vi.restoreAllMocks();
});

it('a figure above its limit ends the benchmark with a line that names both, and a status that is not 0', () => {
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  requireAtMost('crowd.p99', 250, 250, 'ms');
  expect([write.mock.calls.length, process.exitCode]).toEqual([0, before]);
  requireAtMost('crowd.p99', 250.5, 250, 'ms');
  expect([write.mock.calls[0]?.[0], process.exitCode]).toEqual(['crowd.p99 is 250.5 ms: above its limit of 250 ms\n', 1]);
});
