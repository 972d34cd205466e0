import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { boundJobResult } from '../../../activities/host/task/job-claims.ts';

const claimed = { kind: 'exited', exitCode: 0, timedOut: false, stopped: false, seconds: 1, logBytes: 10 } as const;
const bounds = { passedMs: 60_000, logLimitBytes: 1000 };

describe('what a guest says of its command', () => {
  it('is kept where it can be true', () => {
    expect(boundJobResult(claimed, bounds)).toEqual(claimed);
    expect(boundJobResult({ ...claimed, exitCode: 255, logBytes: null }, bounds)).toMatchObject({
      exitCode: 255,
      logBytes: null,
    });
  });

  it.each([256, 99_999_999_999, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])(
    'is refused with the exit code %d',
    (exitCode) => {
      expect(() => boundJobResult({ ...claimed, exitCode }, bounds)).toThrow(expect.objectContaining({ code: 'guest-invalid' }));
    },
  );

  it('is never longer than what passed on its host, nor a log longer than its limit', () => {
    const number = fc.oneof(fc.double(), fc.integer(), fc.constant(1e308));
    fc.assert(
      fc.property(number, number, fc.double({ min: -1e6, max: 1e9, noNaN: true }), (seconds, logBytes, passedMs) => {
        const bound = boundJobResult({ ...claimed, seconds, logBytes }, { ...bounds, passedMs });
        expect(bound.seconds).toBeGreaterThanOrEqual(0);
        expect(bound.seconds).toBeLessThanOrEqual(Math.max(0, passedMs) / 1000);
        expect(Number.isSafeInteger(bound.logBytes)).toBe(true);
        expect(bound.logBytes).toBeLessThanOrEqual(bounds.logLimitBytes);
        // A date can be made of it.
        expect(() => new Date(1.7e12 + Math.round(bound.seconds * 1000)).toISOString()).not.toThrow();
      }),
    );
  });
});
