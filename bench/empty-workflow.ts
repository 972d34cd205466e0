import { proxyActivities, proxyLocalActivities } from '@temporalio/workflow';

interface NoopActivities {
  noop(): Promise<void>;
}

const local = proxyLocalActivities<NoopActivities>({ startToCloseTimeout: '10 seconds' });

/** A workflow with as many activities as a task's workflow, all of them empty: the baseline of `task.rate`. */
export async function emptyWorkflow(queue: string, remoteActivities: number, localActivities: number): Promise<void> {
  const remote = proxyActivities<NoopActivities>({
    taskQueue: queue,
    startToCloseTimeout: '1 minute',
    heartbeatTimeout: '10 seconds',
  });
  for (let i = 0; i < localActivities; i += 1) await local.noop();
  for (let i = 0; i < remoteActivities; i += 1) await remote.noop();
}
