import type { VmLocation } from '../../contracts/ledger.ts';
import { BerthError, type ErrorCode } from '../../model/errors.ts';
import type { HostId, VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import { workflowId } from '../../model/temporal.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';

/**
 * Moves a VM along its states; the state that it has already is no move. `why` is kept while it is stuck, for the
 * operator. Throws not-found, and conflict for a move that isn't legal.
 */
export async function setVmState(
  deps: LedgerDeps,
  id: VmId,
  state: VmState,
  why?: { code: ErrorCode; message: string },
): Promise<VmLocation> {
  const problem = state === 'stuck' && why !== undefined ? JSON.stringify(why) : null;
  return inTransaction(deps.ledger, async (tx) => {
    const changed = await tx.$executeRaw`
      UPDATE "Vm" SET state = ${state}::"VmState",
        problem = CASE WHEN ${state} = 'stuck' THEN COALESCE(${problem}::jsonb, problem) END,
        "startedAt" = CASE WHEN ${state} = 'running' THEN COALESCE("startedAt", ${isoNow(deps)}::timestamptz) ELSE "startedAt" END
      WHERE id = ${id}`;
    if (changed === 0) throw new BerthError('not-found', `There is no VM ${id} in the ledger`);
    return readLocation(tx, id);
  });
}

async function readLocation(tx: Transaction, id: VmId): Promise<VmLocation> {
  const rows = await tx.$queryRaw<
    { state: VmState; host: HostId | null; home: HostId | null; generation: number; moving: number | null }[]
  >`
    SELECT state, "hostId" AS host, "homeId" AS home, generation,
      (SELECT m.generation FROM "Migration" m WHERE m."vmId" = v.id AND m.state IN ('running', 'stuck')
        AND (m.reserved OR m."committedAt" IS NOT NULL)) AS moving
    FROM "Vm" v WHERE id = ${id}`;
  const row = rows[0];
  if (row === undefined) throw new BerthError('not-found', `There is no VM ${id} in the ledger`);
  const { moving, ...place } = row;
  return { ...place, migrationWorkflowId: moving === null ? null : workflowId.migration(id, moving) };
}

export const loadVmLocation = (deps: LedgerDeps, id: VmId): Promise<VmLocation> => readLocation(deps.ledger, id);
