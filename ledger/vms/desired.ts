import type { VmDesired } from '../../contracts/ledger-vm.ts';
import type { VmId } from '../../model/ids.ts';
import { unboundedDurationS } from '../../model/vm-request.ts';
import { batch, secondsAgo } from '../housekeeping.ts';
import { oneOrNotFound } from '../rows.ts';
import { isoNow, type LedgerDeps } from '../transaction.ts';

/** Reads the desired state of a standalone VM, and records that its workflow runs. Throws not-found. */
export async function loadVmDesired(deps: LedgerDeps, id: VmId): Promise<VmDesired> {
  const rows = await deps.ledger.$queryRaw<(Omit<VmDesired, 'leaseEndsAt'> & { leaseEndsAt: Date | null })[]>`
    UPDATE "Vm" v SET "workflowAt" = COALESCE("workflowAt", ${isoNow(deps)}::timestamptz)
    WHERE id = ${id} AND "order" IS NOT NULL
    RETURNING "ownerId" AS owner, state, operation, "removalRequestedAt" IS NOT NULL AS remove,
      state <> 'running' OR "hostKey" IS NOT NULL AS customized,
      (SELECT COALESCE(l."endAt", l."startedAt" + l."durationS" * interval '1 second') FROM "Lease" l
        WHERE l.id = v."leaseId" AND l."durationS" < ${unboundedDurationS}) AS "leaseEndsAt"`;
  const row = oneOrNotFound(rows, `standalone VM ${id}`);
  return { ...row, leaseEndsAt: row.leaseEndsAt?.toISOString() ?? null };
}

/** VMs whose workflow was never started, or was not notified of a request for that long. */
export async function listVmsToNotify(deps: LedgerDeps, olderThanS: number): Promise<{ id: VmId }[]> {
  const before = secondsAgo(deps, olderThanS);
  return deps.ledger.$queryRaw<{ id: VmId }[]>`
    SELECT id FROM "Vm"
    WHERE "order" IS NOT NULL AND state <> 'removed'
      AND ("workflowAt" IS NULL OR "operationAt" IS NOT NULL OR "removalRequestedAt" IS NOT NULL) AND (
      ("workflowAt" IS NULL AND "createdAt" < ${before}) OR "operationAt" < ${before} OR "removalRequestedAt" < ${before})
    ORDER BY "createdAt", id LIMIT ${batch}`;
}
