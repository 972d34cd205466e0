import { Prisma } from '../../generated/prisma/client.ts';
import type { HostId, ImageId } from '../../model/ids.ts';
import { terminalTaskStates } from '../../model/states.ts';
import { batch } from '../housekeeping.ts';
import { inTransaction, isoNow, type LedgerDeps } from '../transaction.ts';

/** Retired images that were never swept, or that a host that was unreachable meanwhile has reported since. */
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
 * Deletes the rows of a retired image's files, except for those that another image names (a kernel is the base's as well),
 * and those that a task or a VM is still to get, or that a path names: an image may be made of files that its owner uses otherwise. The API sweeps
 * the bytes of files without a row.
 */
export async function removeImageFiles(deps: LedgerDeps, id: ImageId): Promise<void> {
  await inTransaction(deps.ledger, async (tx) => {
    await tx.$executeRaw`
      DELETE FROM "File" f USING "Image" i
      WHERE i.id = ${id} AND i.state = 'retired'
        AND f.id IN (i.parts->'disk'->>'file', i.parts->'kernel'->>'file', i.parts->'initrd'->>'file')
        AND NOT EXISTS (SELECT FROM "Image" o WHERE o.id <> i.id AND o.state <> 'retired'
          AND (f.id IN (o.parts->'disk'->>'file', o.parts->'kernel'->>'file', o.parts->'initrd'->>'file')
               OR o.state = 'building' AND o."baseId" = i.id))
        AND NOT EXISTS (SELECT FROM "Task" t WHERE t.state::text NOT IN (${Prisma.join(terminalTaskStates)})
          AND t.spec->'inputs' @> jsonb_build_array(jsonb_build_object('file', f.id)))
        AND NOT EXISTS (SELECT FROM "Vm" v WHERE v.state <> 'removed' AND v."removalRequestedAt" IS NULL AND v."hostKey" IS NULL
          AND v."order"->'files' @> jsonb_build_array(jsonb_build_object('file', f.id)))
        AND NOT EXISTS (SELECT FROM "TreeEntry" e WHERE e."fileId" = f.id)
        AND NOT EXISTS (SELECT FROM "TrashEntry" e WHERE e."fileId" = f.id)`;
    await tx.image.updateMany({ where: { id, state: 'retired', sweptAt: null }, data: { sweptAt: isoNow(deps) } });
  });
}
