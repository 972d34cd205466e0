import type { DrainId } from '../../model/drain.ts';
import type { HostId } from '../../model/ids.ts';
import { batch, secondsAgo } from '../housekeeping.ts';
import { isoNow, type LedgerDeps } from '../transaction.ts';

/** An operator has cancelled the drain's workflow, which has the effect of a cancellation by the API. */
export async function requestDrainCancel(deps: LedgerDeps, id: DrainId): Promise<void> {
  await deps.ledger.$executeRaw`
    UPDATE "Drain" SET "cancelRequestedAt" = COALESCE("cancelRequestedAt", ${isoNow(deps)}::timestamptz)
    WHERE id = ${id} AND "finishedAt" IS NULL`;
}

/** Drains under way whose workflow was never started, because the API died first. */
export async function listDrainsWithoutWorkflow(
  deps: LedgerDeps,
  olderThanS: number,
): Promise<{ id: DrainId; host: HostId; number: number }[]> {
  const rows = await deps.ledger.drain.findMany({
    where: { finishedAt: null, workflowAt: null, createdAt: { lt: secondsAgo(deps, olderThanS) } },
    orderBy: [{ createdAt: 'asc' }, { id: 'asc' }],
    take: batch,
  });
  return rows.map(({ id, hostId, number }) => ({ id: id as DrainId, host: hostId as HostId, number }));
}
