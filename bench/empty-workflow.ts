import { proxyActivities, proxyLocalActivities } from '@temporalio/workflow';

interface Nothing {
  nothing(): Promise<void>;
}

const local = proxyLocalActivities<Nothing>({ startToCloseTimeout: '10 seconds' });

/** As many activities as a task's workflow has, none of which does anything. The baseline of `task.rate`. */
export async function nothingMuch(queue: string, remoteActivities: number, localActivities: number): Promise<void> {
  const remote = proxyActivities<Nothing>({ taskQueue: queue, startToCloseTimeout: '1 minute', heartbeatTimeout: '10 seconds' });
  for (let i = 0; i < localActivities; i += 1) await local.nothing();
  for (let i = 0; i < remoteActivities; i += 1) await remote.nothing();
}
