import type { WorkerOptions } from '@temporalio/worker';

/**
 * Slots of a host worker. A running command holds one for as long as it runs, and reportLiveness one without end, so there are
 * more than a host has VMs: no owner's commands keep a removal, or another's step, from a slot. What is heavy waits for its
 * owner's turn in the worker (activities/host/step-lanes.ts).
 */
export const hostLimits = {
  maxConcurrentActivityTaskExecutions: 4096,
  // Each is a request that waits at the server, a minute at most: with the SDK's ten, those of 5,000 idle hosts are 830 a second. What a
  // poll takes, the next one follows at once.
  activityTaskPollerBehavior: { type: 'simple-maximum', maximum: 2 },
} as const satisfies Partial<WorkerOptions>;

/** The answer to a heartbeat cancels an activity: with the SDK's default of 30 s that would take as long. */
export const heartbeatThrottle = {
  maxHeartbeatThrottleInterval: '2s',
  defaultHeartbeatThrottleInterval: '2s',
} as const satisfies Partial<WorkerOptions>;
