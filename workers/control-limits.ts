import type { WorkerOptions } from '@temporalio/worker';

/** How much a control worker does at a time. */
export const controlLimits = {
  // A little more than the ledger's connections: the rest waits here instead of in the pool, whose timeout is short.
  maxConcurrentLocalActivityExecutions: 16,
  maxConcurrentActivityTaskExecutions: 16,
  maxConcurrentWorkflowTaskExecutions: 40,
  // After a worker was killed, the next steps of its workflows, due leases among them, wait this long for it.
  stickyQueueScheduleToStartTimeout: '3s',
} as const satisfies Partial<WorkerOptions>;
