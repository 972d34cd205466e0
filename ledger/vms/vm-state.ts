import type { VmLocation } from '../../contracts/ledger.ts';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import { workflowId } from '../../model/temporal.ts';
import { oneOrNotFound } from '../rows.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';

/**
 * Changes the state of a VM; a repeat changes nothing. `why` is recorded while the VM is stuck, stopped or crashed. Throws
 * not-found, and conflict for an illegal transition.
 */
export async function setVmState(
  deps: LedgerDeps,
  id: VmId,
  state: VmState,
  why?: { code: ErrorCode; message: string },
): Promise<VmLocation> {
  const problem = why === undefined ? null : JSON.stringify(why);
  return inTransaction(deps.ledger, async (tx) => {
    const changed = await tx.$executeRaw`
      UPDATE "Vm" SET state = ${state}::"VmState",
        problem = CASE WHEN ${state} IN ('stuck', 'stopped', 'crashed') THEN COALESCE(${problem}::jsonb, problem) END,
        "startedAt" = CASE WHEN ${state} = 'running' THEN COALESCE("startedAt", ${isoNow(deps)}::timestamptz) ELSE "startedAt" END
      WHERE id = ${id}`;
    if (changed === 0) throw new BerthError('not-found', `There is no VM ${id} in the ledger`);
    return readLocation(tx, id);
  });
}

async function readLocation(tx: Transaction, id: VmId): Promise<VmLocation> {
  const rows = await tx.$queryRaw<
    { state: VmState; host: HostId | null; home: HostId | null; generation: number; migrating: number | null }[]
  >`
    SELECT state, "hostId" AS host, "homeId" AS home, generation,
      (SELECT m.generation FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')
        AND (m.reserved OR m."committedAt" IS NOT NULL)) AS migrating
    FROM "Vm" v WHERE id = ${id}`;
  const { migrating, ...location } = oneOrNotFound(rows, `VM ${id}`);
  return { ...location, migrationWorkflowId: migrating === null ? null : workflowId.migration(id, migrating) };
}

export const loadVmLocation = (deps: LedgerDeps, id: VmId): Promise<VmLocation> => readLocation(deps.ledger, id);
