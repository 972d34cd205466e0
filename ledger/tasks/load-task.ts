import type { TaskRecord } from '../../contracts/ledger.ts';
import type { TaskId, VmId } from '../../model/ids.ts';
import { isTerminal, type TaskState, vmStatesWithoutResources } from '../../model/states.ts';
import { StoredTaskSpec, type TaskSpec } from '../../model/task.ts';
import { oneOrNotFound } from '../rows.ts';
import { isoNow, type LedgerDeps } from '../transaction.ts';
import { type PlacedVm, readPlacedTask } from '../vms/placed-vms.ts';
import { vmRefs } from '../vms/vm-specs.ts';

interface TaskRow {
  ownerId: string;
  spec: unknown;
  state: TaskState;
  vmIds: VmId[];
  cancelRequested: boolean;
}

const isOnHost = ({ state }: PlacedVm): boolean => !vmStatesWithoutResources.some((without) => without === state);

/** Not its command, variables and inputs: a history holds what its saga decides by. */
export function specForSaga({ nodes, timeoutS, lease, outputs, onMissingOutput, keepOutputs }: TaskSpec): TaskRecord['spec'] {
  return { nodes, timeoutS, lease, outputs, onMissingOutput, keepOutputs };
}

/** Reads the task for its workflow, and records that the workflow runs. Throws not-found. */
export async function loadTask(deps: LedgerDeps, id: TaskId): Promise<TaskRecord> {
  const rows = await deps.ledger.$queryRaw<TaskRow[]>`
    UPDATE "Task" t SET "workflowAt" = COALESCE("workflowAt", ${isoNow(deps)}::timestamptz)
    WHERE id = ${id}
    RETURNING "ownerId", spec, state, "cancelRequestedAt" IS NOT NULL AS "cancelRequested",
      ARRAY(SELECT v.id FROM "Vm" v WHERE v."taskId" = t.id ORDER BY v.node) AS "vmIds"`;
  const row = oneOrNotFound(rows, `task ${id}`);
  const placed = isTerminal(row.state) ? await readPlacedTask(deps.ledger, id) : null;
  return {
    ...(placed === null ? {} : { remaining: vmRefs({ ...placed, vms: placed.vms.filter(isOnHost) }) }),
    id,
    owner: row.ownerId,
    spec: specForSaga(StoredTaskSpec.parse(row.spec)),
    state: row.state,
    vmIds: row.vmIds,
    cancelRequested: row.cancelRequested,
    fewUpserts: true,
  };
}
