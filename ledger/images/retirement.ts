import type { BuildKey } from '../../contracts/ledger.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import { inTransaction, isoNow, type LedgerDeps } from '../transaction.ts';

/** So many images are taken care of in one round. */
const batch = 100;

/** Images to be built that no workflow has asked for yet: the API died before it could start one. */
export async function listBuildsWithoutWorkflow(deps: LedgerDeps, olderThanS: number): Promise<BuildKey[]> {
  const before = new Date(deps.clock() - olderThanS * 1000);
  const where = { state: 'building' as const, workflowAt: null, startedAt: { lt: before } };
  return findBuildNames(deps, where);
}

/** Builds whose end was asked for that long ago and that still have none: the request was lost on its way. */
export async function listBuildsToCancel(deps: LedgerDeps, olderThanS: number): Promise<BuildKey[]> {
  const before = new Date(deps.clock() - olderThanS * 1000);
  return findBuildNames(deps, { state: 'building' as const, workflowAt: { not: null }, cancelRequestedAt: { lt: before } });
}

async function findBuildNames(deps: LedgerDeps, where: object): Promise<BuildKey[]> {
  const select = { id: true, name: true, digest: true } as const;
  const rows = await deps.ledger.image.findMany({ where, select, orderBy: { id: 'asc' }, take: batch });
  return rows.map((row) => ({ ...row, id: row.id as ImageId }));
}

/** Retired images that were never swept, or that a host has brought back since, which was away meanwhile. */
export async function listImagesToSweep(deps: LedgerDeps): Promise<ImageId[]> {
  const rows = await deps.ledger.image.findMany({
    where: { state: 'retired', OR: [{ sweptAt: null }, { hosts: { some: {} } }] },
    select: { id: true },
    orderBy: { id: 'asc' },
    take: batch,
  });
  return rows.map(({ id }) => id as ImageId);
}

export async function listImageHosts(deps: LedgerDeps, id: ImageId): Promise<HostId[]> {
  const rows = await deps.ledger.hostImage.findMany({ where: { imageId: id }, orderBy: { hostId: 'asc' } });
  return rows.map(({ hostId }) => hostId as HostId);
}

export async function recordImageRemoved(deps: LedgerDeps, host: HostId, id: ImageId): Promise<void> {
  await deps.ledger.hostImage.deleteMany({ where: { hostId: host, imageId: id } });
}

/**
 * The files of a retired image, but for those that another image names: a kernel is its base's as well. Rows go here, the
 * bytes after them (the API sweeps what no row speaks of).
 */
export async function removeImageFiles(deps: LedgerDeps, id: ImageId): Promise<void> {
  await inTransaction(deps.ledger, async (tx) => {
    await tx.$executeRaw`
      DELETE FROM "File" f USING "Image" i
      WHERE i.id = ${id} AND i.state = 'retired'
        AND f.id IN (i.parts->'disk'->>'file', i.parts->'kernel'->>'file', i.parts->'initrd'->>'file')
        AND NOT EXISTS (SELECT FROM "Image" o WHERE o.id <> i.id AND o.state <> 'retired'
          AND (f.id IN (o.parts->'disk'->>'file', o.parts->'kernel'->>'file', o.parts->'initrd'->>'file')
               OR o.state = 'building' AND o."baseId" = i.id))`;
    await tx.image.updateMany({ where: { id, state: 'retired', sweptAt: null }, data: { sweptAt: isoNow(deps) } });
  });
}
