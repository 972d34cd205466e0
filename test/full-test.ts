import { test } from 'vitest';
import { isFull } from './tier.ts';

/** A test that a full run alone has; npm test has none in its place, which is no skipped one. */
export function fullTest(name: string, act: () => Promise<void>): void {
  if (isFull) test(name, act);
}
