import type { TaskRecord } from '../../contracts/ledger.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import type { TaskState } from '../../model/states.ts';
import { StoredTaskSpec } from '../../model/task.ts';
import { oneOrNotFound } from '../rows.ts';
import { isoNow, type LedgerDeps } from '../transaction.ts';

interface TaskRow {
  ownerId: string;
  spec: unknown;
  state: TaskState;
  vmIds: VmId[];
  cancelRequested: boolean;
}

/** Reads the task for its workflow, and records that the workflow runs. Throws not-found. */
export async function loadTask(deps: LedgerDeps, id: TaskId): Promise<TaskRecord> {
  const rows = await deps.ledger.$queryRaw<TaskRow[]>`
    UPDATE "Task" t SET "workflowAt" = COALESCE("workflowAt", ${isoNow(deps)}::timestamptz)
    WHERE id = ${id}
    RETURNING "ownerId", spec, state, "cancelRequestedAt" IS NOT NULL AS "cancelRequested",
      ARRAY(SELECT v.id FROM "Vm" v WHERE v."taskId" = t.id ORDER BY v.node) AS "vmIds"`;
  const row = oneOrNotFound(rows, `task ${id}`);
  // Not its command, variables and inputs: a history holds what its saga decides by.
  const { nodes, timeoutS, lease, outputs, onMissingOutput, keepOutputs } = StoredTaskSpec.parse(row.spec);
  return {
    id,
    owner: row.ownerId,
    spec: { nodes, timeoutS, lease, outputs, onMissingOutput, keepOutputs },
    state: row.state,
    vmIds: row.vmIds,
    cancelRequested: row.cancelRequested,
  };
}
