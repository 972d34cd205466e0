/**
 * Slots of a host worker. A running command holds one for as long as it runs, and reportLiveness one without end, so there are
 * more than a host has VMs: no owner's commands keep a removal, or another's step, from a slot. What is heavy waits for its
 * owner's turn in the worker (activities/host/step-lanes.ts).
 */
export const hostLimits = { maxConcurrentActivityTaskExecutions: 4096 } as const;
