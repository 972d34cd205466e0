import type { BuildKey } from '../../contracts/ledger.ts';
import type { ImageId } from '../../model/ids.ts';
import { batch, secondsAgo } from '../housekeeping.ts';
import type { LedgerDeps } from '../transaction.ts';

/** Builds whose workflow was never started, because the API died first. */
export async function listBuildsWithoutWorkflow(deps: LedgerDeps, olderThanS: number): Promise<BuildKey[]> {
  const where = { state: 'building' as const, workflowAt: null, startedAt: { lt: secondsAgo(deps, olderThanS) } };
  return findBuilds(deps, where);
}

/** Builds whose cancellation was requested that long ago and that have not ended: the request was lost. */
export async function listBuildsToCancel(deps: LedgerDeps, olderThanS: number): Promise<BuildKey[]> {
  return findBuilds(deps, {
    state: 'building' as const,
    workflowAt: { not: null },
    cancelRequestedAt: { lt: secondsAgo(deps, olderThanS) },
  });
}

async function findBuilds(deps: LedgerDeps, where: object): Promise<BuildKey[]> {
  const select = { id: true, name: true, digest: true } as const;
  const rows = await deps.ledger.image.findMany({ where, select, orderBy: { id: 'asc' }, take: batch });
  return rows.map((row) => ({ ...row, id: row.id as ImageId }));
}
