import { type Client, WorkflowNotFoundError } from '@temporalio/client';
import type { Ledger } from '../ledger/client.ts';
import { listWorkflowEnds, recordWorkflowEnded, type WorkflowEnd } from '../ledger/levers/workflow-ends.ts';
import type { Logger } from '../model/log.ts';
import { type Repeating, startRepeating } from './repeat.ts';

/** An operator waits for it, and the query finds nothing nearly always. */
const intervalMs = 3_000;

/** Ids that a later record has as well: of these only a run from before is ended. */
const reusedIds = /^(image|host|reconcile|templates)-/;

/**
 * Terminates the workflows of records that an operator has ended: they could only go on to steps that the ledger refuses. Their
 * activities on hosts are cancelled with their next heartbeat. Several control workers may do this at once.
 * @returns how many rows were done
 */
export async function endWorkflows(ledger: Ledger, client: Client): Promise<number> {
  const ends = await listWorkflowEnds(ledger);
  for (const end of ends) {
    await terminate(client, end);
    await recordWorkflowEnded(ledger, end);
  }
  return ends.length;
}

async function terminate(client: Client, { workflowId, reason, createdAt }: WorkflowEnd): Promise<void> {
  try {
    const { runId, startTime, status } = await client.workflow.getHandle(workflowId).describe();
    if (status.name !== 'RUNNING' || (reusedIds.test(workflowId) && startTime > createdAt)) return;
    await client.workflow.getHandle(workflowId, runId).terminate(reason);
  } catch (error) {
    if (!(error instanceof WorkflowNotFoundError)) throw error;
  }
}

/** Repeats endWorkflows until it is stopped. */
export function startEndingWorkflows(deps: { ledger: Ledger; client: Client; log: Logger }): Repeating {
  const { ledger, client, log } = deps;
  return startRepeating({
    step: async () => {
      const ended = await endWorkflows(ledger, client);
      if (ended > 0) log.info({ ended }, 'ended the workflows of records that an operator has ended');
      return 'done';
    },
    intervalMs,
    log,
    level: 'warn',
    failure: 'workflows of ended records could not be terminated; it is retried',
  });
}
