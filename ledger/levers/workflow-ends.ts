import type { Ledger } from '../client.ts';
import { batch } from '../housekeeping.ts';
import type { Transaction } from '../transaction.ts';

/**
 * The workflow of a record that an operator has ended is terminated after the transaction, by a control worker: the row is
 * written with the end, so that no crash in between leaves a workflow that goes on for ever.
 */
export interface WorkflowEnd {
  workflowId: string;
  reason: string;
  /** A run that was started later is of another record. */
  createdAt: Date;
}

export async function requestWorkflowEnd(tx: Transaction, workflowId: string, reason: string, now: string): Promise<void> {
  await tx.$executeRaw`
    INSERT INTO "WorkflowEnd" ("workflowId", reason, "createdAt") VALUES (${workflowId}, ${reason}, ${now}::timestamptz)
    ON CONFLICT ("workflowId") DO UPDATE SET "createdAt" = EXCLUDED."createdAt", reason = EXCLUDED.reason`;
}

export async function listWorkflowEnds(ledger: Ledger): Promise<WorkflowEnd[]> {
  return ledger.workflowEnd.findMany({ orderBy: { createdAt: 'asc' }, take: batch });
}

/** It does not run any more. */
export async function recordWorkflowEnded(ledger: Ledger, { workflowId, createdAt }: WorkflowEnd): Promise<void> {
  await ledger.workflowEnd.deleteMany({ where: { workflowId, createdAt } });
}
