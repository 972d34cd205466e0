import type { DrainStep } from '../../contracts/ledger.ts';
import { type DrainId, type DrainMove, isDrainOver } from '../../model/drain.ts';
import { readRecoveries } from '../migrations/measurements.ts';
import { lockPlacement } from '../placement/lock-placement.ts';
import { inTransaction, isoNow, type LedgerDeps, type Transaction } from '../transaction.ts';
import { lockDrain, stepResult } from './drain-row.ts';
import { emptyHost } from './empty-host.ts';
import { cancelDrain, holdEmpty, returnVms } from './return-vms.ts';

/**
 * Decides a drain's next step from the rows as they are now and writes it down, in one transaction: the plan, the state,
 * and the migrations that are to begin. A saga that is killed between two steps loses nothing, and steps again.
 */
export async function stepDrain(deps: LedgerDeps, id: DrainId): Promise<DrainStep> {
  return inTransaction(deps.ledger, async (tx) => {
    await lockPlacement(tx);
    const context = await lockDrain(deps, tx, id);
    const { drain, nowMs } = context;
    await tx.$executeRaw`
      UPDATE "Drain" SET "workflowAt" = COALESCE("workflowAt", ${isoNow(deps)}::timestamptz) WHERE id = ${id}`;
    context.recoveries = await readRecoveries(tx, drain, nowMs);
    context.migrations = await readActiveMigrations(tx, id);
    if (isDrainOver(drain.state)) return stepResult(context, {});
    if (drain.state === 'returning') return returnVms(context);
    if (drain.cancelRequestedAt !== null) return cancelDrain(context);
    return drain.state === 'held' ? holdEmpty(context) : emptyHost(context);
  });
}

async function readActiveMigrations(tx: Transaction, id: DrainId): Promise<DrainMove[]> {
  return tx.$queryRaw<DrainMove[]>`
    SELECT id AS migration, "vmId" AS vm, generation FROM "Migration"
    WHERE "requestedBy" = ${id} AND state IN ('running', 'stuck') ORDER BY "createdAt", id`;
}
