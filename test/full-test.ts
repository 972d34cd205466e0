import { test } from 'vitest';
import { isFull } from './tier.ts';

/** A test that only a full run has; npm test omits it, and does not count it as skipped. */
export function fullTest(name: string, act: () => Promise<void>, timeoutMs?: number): void {
  if (isFull) test(name, act, timeoutMs);
}
