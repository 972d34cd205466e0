import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { boundJobResult } from '../../../activities/host/task/job-claims.ts';
import { partsOfLog } from '../../../activities/host/task/log-upload.ts';

const claimed = {
  kind: 'exited',
  exitCode: 0,
  timedOut: false,
  stopped: false,
  seconds: 1,
  signal: null,
  logBytes: 10,
  tail: null,
} as const;
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

  it('makes a log of its limit and a notice at most, whatever it says of a tail', () => {
    const number = fc.oneof(fc.double(), fc.integer(), fc.nat(2000), fc.constant(1e308));
    const tails = fc.option(fc.record({ leftOutBytes: number, bytes: number, from: number }));
    fc.assert(
      fc.property(fc.option(number), tails, (logBytes, tail) => {
        const bound = boundJobResult({ ...claimed, logBytes, tail }, bounds);
        const parts = partsOfLog(bound, bounds.logLimitBytes);
        const kept = parts.flatMap((part) => (part.of === 'notice' ? [] : part));
        for (const { from, bytes } of kept) {
          expect(Number.isSafeInteger(from) && from >= 0).toBe(true);
          expect(Number.isSafeInteger(bytes) && bytes >= 0).toBe(true);
        }
        expect(kept.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThanOrEqual(bounds.logLimitBytes);
        const notices = parts.flatMap((part) => (part.of === 'notice' ? part.text : []));
        expect(Buffer.concat(notices).length).toBeLessThan(100);
      }),
    );
  });
});
