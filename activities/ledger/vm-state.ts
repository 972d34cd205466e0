import { BerthError, type ErrorCode } from '../../model/errors.ts';
import type { VmId } from '../../model/ids.ts';
import type { VmState } from '../../model/states.ts';
import { inTransaction, isoNow, type LedgerDeps } from './deps.ts';

/**
 * Moves a VM along its states; the state that it has already is no move. `why` is kept while it is stuck, for the
 * operator. Throws not-found, and conflict for a move that isn't legal.
 */
export async function setVmState(
  deps: LedgerDeps,
  id: VmId,
  state: VmState,
  why?: { code: ErrorCode; message: string },
): Promise<void> {
  const problem = state === 'stuck' && why !== undefined ? JSON.stringify(why) : null;
  const changed = await inTransaction(
    deps.ledger,
    (tx) => tx.$executeRaw`
      UPDATE "Vm" SET state = ${state}::"VmState",
        problem = CASE WHEN ${state} = 'stuck' THEN COALESCE(${problem}::jsonb, problem) END,
        "startedAt" = CASE WHEN ${state} = 'running' THEN COALESCE("startedAt", ${isoNow(deps)}::timestamptz) ELSE "startedAt" END
      WHERE id = ${id}`,
  );
  if (changed === 0) throw new BerthError('not-found', `There is no VM ${id} in the ledger`);
}
