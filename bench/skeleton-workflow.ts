import { defineSearchAttributeKey, SearchAttributeType } from '@temporalio/common';
import { proxyActivities, proxyLocalActivities, upsertSearchAttributes } from '@temporalio/workflow';

interface NoopActivities {
  noop(): Promise<void>;
}

/** What a workflow asks of Temporal: an activity in its own worker, one on a host's queue, an upsert of search attributes. */
export type BareStep = 'local' | 'remote' | 'upsert';

const local = proxyLocalActivities<NoopActivities>({ startToCloseTimeout: '10 seconds' });
const state = defineSearchAttributeKey('BerthState', SearchAttributeType.KEYWORD);

/** The steps of a task's workflow in their order, each of them empty: the baseline of `task.rate`. */
export async function skeletonWorkflow(queue: string, steps: readonly BareStep[]): Promise<void> {
  const remote = proxyActivities<NoopActivities>({
    taskQueue: queue,
    // As hostOptions of workflows/durable/timeouts.ts: each is a timer of the server's.
    scheduleToStartTimeout: '30 seconds',
    startToCloseTimeout: '1 minute',
    heartbeatTimeout: '10 seconds',
  });
  for (const [index, step] of steps.entries())
    if (step === 'local') await local.noop();
    else if (step === 'remote') await remote.noop();
    else upsertSearchAttributes([{ key: state, value: `step${index}` }]);
}
