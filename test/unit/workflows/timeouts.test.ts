import { expect, test } from 'vitest';
import { livenessTimeout } from '../../../workflows/durable/timeouts.ts';

test('the heartbeats of all hosts together are no more on a site of any size', () => {
  expect(livenessTimeout(undefined, 1)).toEqual({ heartbeatTimeout: 30_000 });
  expect(livenessTimeout(3, 1)).toEqual({ heartbeatTimeout: 30_000 });
  expect(livenessTimeout(1000, 1)).toEqual({ heartbeatTimeout: 30_000 });
  // Four come in this time (activities/failure.ts): 133 a second.
  expect(livenessTimeout(5000, 1)).toEqual({ heartbeatTimeout: 150_000 });
  expect(livenessTimeout(3, 0.2)).toEqual({ heartbeatTimeout: 6_000 });
});
