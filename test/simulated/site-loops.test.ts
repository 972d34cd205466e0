import { fullTest } from '../full-test.ts';
import { day, expectBounded, testLoops, timeoutMs } from './bounded-loops.ts';
import { waitingLoops } from './loops.ts';

testLoops('site');

// Its runs know nothing of each other but a cursor: a round each quarter of an hour instead of each 15 s.
fullTest(
  'a year of the housekeeping has bounded histories',
  () => expectBounded({ ...waitingLoops['the housekeeping']!, args: [60] }, 365 * day),
  timeoutMs,
);
